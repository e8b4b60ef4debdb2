"""`pymotor config`: which configuration a running part has in force."""

from __future__ import annotations

import argparse
import sys

import httpx

from pymotor.control_plane import ClusterToken, TokenError
from pymotor.control_plane.arguments import add_certificate_options
from pymotor.control_plane.asking import PlainURLError, verb_client
from pymotor.control_plane.certificate_trouble import why_not
from pymotor.control_plane.tls import TLSError
from pymotor.control_plane.token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from pymotor.operate.target import certificates_for

_TIMEOUT_SECONDS = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "url",
        metavar="URL",
        help="of a part's management: the Coordinator's (1026), a Controller's or a NodeManager's, which want the token"
        f" of ${TOKEN_VARIABLE}",
    )
    add_certificate_options(parser)
    parser.epilog = "It prints JSON: docs/configuration.md says what. Exit status: 0 done, 1 failed, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Print it; returns the exit status."""
    try:
        token = ClusterToken.from_environment()
        headers = token.header if token is not None else {}
        trusted = certificates_for((arguments.url,), arguments)
        with verb_client(arguments.url, trusted, timeout=_TIMEOUT_SECONDS, headers=headers) as client:
            response = client.get(f"{arguments.url.rstrip('/')}/config")
    except (TokenError, TLSError, PlainURLError) as error:
        return _failed(str(error))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return _failed(f"nobody answers at {arguments.url} ({why_not(error)}); check the address and the port")
    if response.status_code == 401:
        wants = "refuses this token" if token is not None else "wants the cluster token"
        return _failed(
            f"{arguments.url} {wants}: set {TOKEN_VARIABLE}, or {TOKEN_FILE_VARIABLE} to its file. `pymotor up`"
            " has it in the file token of the fleet's directory, a cluster in the Secret motor-cluster-token"
        )
    if not response.is_success:
        return _failed(f"{arguments.url} answers HTTP {response.status_code}: {response.text[:500].strip()}")
    print(response.text)
    return 0


def _failed(why: str) -> int:
    print(f"pymotor config: {why}", file=sys.stderr)
    return 1
