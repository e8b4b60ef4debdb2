"""`pymotor coordinator` with another worker module: `run_coordinator.py MODULE OPTIONS…`."""

from __future__ import annotations

import argparse
import sys

from pymotor.coordinator.command import configure, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    configure(parser)
    sys.exit(run(parser.parse_args(sys.argv[2:]), worker_module=sys.argv[1]))
