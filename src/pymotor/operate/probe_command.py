"""`pymotor probe`: what kubelet cannot ask itself, since it has no certificate to show.

Started every few seconds in each pod, so it loads next to nothing.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys

from pymotor.control_plane.arguments import add_certificate_options, certificates_of, port, some_seconds
from pymotor.control_plane.certificate_trouble import why_not
from pymotor.control_plane.tls import TLSError

_LOOPBACK = "127.0.0.1"
_MOST_SHOWN = 500


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("port", type=port, metavar="PORT", help="of the part's management")
    parser.add_argument("path", metavar="PATH", help="what is asked: /startup, /readiness, /liveness or /health")
    parser.add_argument(
        "--host", default=os.environ.get("POD_IP") or _LOOPBACK, help=f"default: $POD_IP, else {_LOOPBACK}"
    )
    parser.add_argument(
        "--timeout", type=some_seconds, default=4.0, metavar="SECONDS", help="for the answer (default: %(default)g)"
    )
    add_certificate_options(parser)
    parser.epilog = "Exit status: 0 the answer is 2xx, 1 it is not or there is none, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Ask once; returns the exit status."""
    try:
        trusted = certificates_of(arguments)
    except TLSError as error:
        return _failed(str(error))
    connection = http.client.HTTPConnection(arguments.host, arguments.port, timeout=arguments.timeout)
    try:
        connection.connect()
        if trusted is not None:
            name = trusted.name or arguments.host
            connection.sock = trusted.context.wrap_socket(connection.sock, server_hostname=name)
        connection.request("GET", arguments.path)
        answer = connection.getresponse()
        text = answer.read(_MOST_SHOWN).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return _failed(f"{arguments.host}:{arguments.port} does not answer: {why_not(error)}")
    finally:
        connection.close()
    if 200 <= answer.status < 300:
        return 0
    return _failed(f"{arguments.path} answers {answer.status}: {text}")


def _failed(why: str) -> int:
    print(f"pymotor probe: {why}", file=sys.stderr)
    return 1
