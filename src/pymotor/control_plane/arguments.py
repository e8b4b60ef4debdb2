"""Options that several commands have, and their kinds; a kind raises `argparse.ArgumentTypeError` for what is none.

Where a function raises `ValueError`, `argparse` shows the function's name to the user and no word of what is wanted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from pymotor.control_plane.asking import Trust
from pymotor.control_plane.controllers import ControllerURLError, controller_urls
from pymotor.control_plane.tls import ClientTLS, TLSError, TLSFiles

CERTIFICATE_VARIABLES = {
    "ca_file": "PYMOTOR_TLS_CA_FILE",
    "cert_file": "PYMOTOR_TLS_CERT_FILE",
    "key_file": "PYMOTOR_TLS_KEY_FILE",
    "passwd_file": "PYMOTOR_TLS_PASSWORD_FILE",
    "crl_file": "PYMOTOR_TLS_CRL_FILE",
}
"""Where operators' verbs find certificates, by the keys of `tls_config`."""

PEER_NAME_VARIABLE = "PYMOTOR_TLS_PEER_NAME"
"""And what the part's certificate names."""


def port(text: str) -> int:
    """A port to listen on; 0: any free one."""
    number = _whole(text, "port: 0 to 65535")
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is no port: 0 to 65535")
    return number


def at_least_one(text: str) -> int:
    """How many, 1 or more."""
    number = _whole(text, "number, 1 or more")
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def seconds(text: str) -> float:
    """A length of time, finite, also none."""
    length = _number(text)
    if not 0 <= length < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no length of time in seconds, 0 or more")
    return length


def some_seconds(text: str) -> float:
    """A length of time, finite, more than none."""
    length = _number(text)
    if not 0 < length < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no length of time in seconds, more than 0")
    return length


def descriptor(text: str) -> int:
    """A file descriptor that is open in this process."""
    number = _whole(text, "number of a file descriptor")
    try:
        os.fstat(number)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"descriptor {number} is not open: {error}") from error
    return number


def controllers(text: str) -> tuple[str, ...]:
    """URLs of Controllers, with commas between them."""
    try:
        return controller_urls(text)
    except ControllerURLError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_parent_pipe(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--parent-pipe`: what whoever starts a part keeps open as long as the part is to run."""
    parser.add_argument(
        "--parent-pipe",
        type=descriptor,
        metavar="FD",
        help="end when this inherited descriptor reports end of file, that is when the parent is gone",
    )


def add_certificate_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how a part elsewhere is known that speaks TLS, and what is shown to it."""
    group = parser.add_argument_group("certificates, for https: (default: the variables named; else the system's)")
    named = CERTIFICATE_VARIABLES
    group.add_argument("--ca-file", metavar="FILE", help=f"the authority that signed the part's; ${named['ca_file']}")
    group.add_argument("--cert-file", metavar="FILE", help=f"certificate to show to it; ${named['cert_file']}")
    group.add_argument("--key-file", metavar="FILE", help=f"its private key; ${named['key_file']}")
    group.add_argument("--passwd-file", metavar="FILE", help=f"the key's password; ${named['passwd_file']}")
    group.add_argument("--crl-file", metavar="FILE", help=f"revoked certificates; ${named['crl_file']}")
    group.add_argument(
        "--peer-name",
        metavar="NAME",
        help=f"what its certificate names; ${PEER_NAME_VARIABLE}, else the host that is dialled",
    )
    group.add_argument(
        "--any-name",
        action="store_true",
        help="take a certificate of this authority whatever name it has: for a part of the same pod, which is dialled"
        " by an address",
    )


def certificates_of(arguments: argparse.Namespace, variables: Mapping[str, str] = os.environ) -> Trust | None:
    """What the options of `add_certificate_options` say, else the variables; None where neither names a file.

    Raises `TLSError`.
    """
    named = {key: getattr(arguments, key) or variables.get(name, "") for key, name in CERTIFICATE_VARIABLES.items()}
    if not any(named.values()):
        if arguments.any_name:
            raise TLSError("--any-name needs the authority that signed the certificate: name it with --ca-file")
        return None
    if not named["ca_file"]:
        raise TLSError(
            f"certificates are named, but no authority: add --ca-file, or {CERTIFICATE_VARIABLES['ca_file']}"
        )
    if bool(named["cert_file"]) != bool(named["key_file"]):
        raise TLSError("a certificate goes with its private key: name both with --cert-file and --key-file")
    files = TLSFiles(**{key: str(Path(path).absolute()) if path else "" for key, path in named.items()})
    context = ClientTLS(files).context()
    if arguments.any_name:
        context.check_hostname = False
    return Trust(context, arguments.peer_name or variables.get(PEER_NAME_VARIABLE, ""))


def _whole(text: str, wanted: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no {wanted}") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, as 30 or 0.5") from error
