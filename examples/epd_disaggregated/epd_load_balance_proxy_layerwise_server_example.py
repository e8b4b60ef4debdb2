#!/usr/bin/env python3
"""A proxy before encode engines and those that read their embeddings: pd, or prefill and decode.

python epd_load_balance_proxy_layerwise_server_example.py --encoder-ports 23001 --pd-ports 33003 --port 8001
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
    sys.exit(run("epd_load_balance_proxy_layerwise_server_example"))
