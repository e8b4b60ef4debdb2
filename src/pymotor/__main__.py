"""`python -m pymotor` is the `pymotor` command."""

import sys

from pymotor.cli import main

if __name__ == "__main__":
    sys.exit(main())
