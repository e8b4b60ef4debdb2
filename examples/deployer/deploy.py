#!/usr/bin/env python3
"""Deploy PyMotor on Kubernetes: `python3 deploy.py --help`. The code is `pymotor.deployer`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "src"

if __name__ == "__main__":
    if (SOURCES / "pymotor").is_dir():
        # In a checkout the code beside this script is meant, whatever is installed.
        sys.path.insert(0, str(SOURCES))
    try:
        from pymotor.deployer.command import main
    except ModuleNotFoundError as missing:
        sys.exit(f"deploy.py: {missing}; install PyMotor here: pip install pymotor")
    sys.exit(main(sys.argv[1:], HERE))
