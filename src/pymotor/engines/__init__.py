"""What each engine is called, how it is started and what its connectors can do."""
