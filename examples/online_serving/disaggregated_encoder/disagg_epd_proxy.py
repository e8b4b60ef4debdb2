#!/usr/bin/env python3
"""A proxy before encode, prefill and decode servers that are named by URL.

    python disagg_epd_proxy.py --encode-servers-urls http://localhost:23001 \\
        --prefill-servers-urls disable --decode-servers-urls http://localhost:33003
"""

import sys

try:
    from pymotor.coordinator.proxy.originals import run
except ModuleNotFoundError as error:
    sys.exit(
        f"{sys.executable} cannot import {error.name}: run this script with the Python that PyMotor is installed for"
        " (in a checkout .venv/bin/python, after `make up`), or install PyMotor for this one with `pip install` and the"
        " path of the checkout"
    )

if __name__ == "__main__":
    sys.exit(run("disagg_epd_proxy"))
