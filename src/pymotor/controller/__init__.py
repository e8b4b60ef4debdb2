"""What should run against what does run: nodes report in, instances and numbered snapshots go out."""
