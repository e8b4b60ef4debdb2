#!/usr/bin/env python3
"""Deploy PyMotor on Kubernetes: `python3 deploy.py --help`. The code is `pymotor.deployer`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
PYTHON = CHECKOUT / ".venv" / "bin" / "python"

if __name__ == "__main__":
    if (CHECKOUT / "src" / "pymotor").is_dir():
        # In a checkout the code beside this script is meant, whatever is installed.
        sys.path.insert(0, str(CHECKOUT / "src"))
    try:
        from pymotor.deployer.command import main
    except ModuleNotFoundError as missing:
        if PYTHON.exists() and sys.prefix != str(PYTHON.parents[1]):
            # What `make` installed has what this Python lacks.
            os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606  no value reaches a shell
        is_checkout = (CHECKOUT / "pyproject.toml").exists()
        source = str(CHECKOUT) if is_checkout else ". in a checkout of PyMotor, or run it in PyMotor's image"
        sys.exit(f"deploy.py: {missing}; install PyMotor for this Python: {sys.executable} -m pip install {source}")
    sys.exit(main(sys.argv[1:], HERE))
