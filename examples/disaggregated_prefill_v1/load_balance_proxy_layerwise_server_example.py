#!/usr/bin/env python3
"""A proxy before prefill and decode engines with the MooncakeLayerwiseConnector: decode calls the proxy back.

    python load_balance_proxy_layerwise_server_example.py --host 10.0.0.1 \\
        --prefiller-hosts 10.0.0.2 --decoder-hosts 10.0.0.3
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
    sys.exit(run("load_balance_proxy_layerwise_server_example"))
