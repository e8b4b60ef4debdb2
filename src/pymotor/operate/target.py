"""Which Controller an operator means: one that is named, else that of a fleet of this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pymotor.control_plane import ClusterToken, TokenError
from pymotor.control_plane.arguments import add_certificate_options, certificates_of
from pymotor.control_plane.asking import PlainURLError, Trust
from pymotor.control_plane.tls import TLSError
from pymotor.control_plane.token import TOKEN_VARIABLE
from pymotor.local.selection import add_fleet_options, choose_fleet
from pymotor.local.state import FleetDirectory, FleetError, state_home

URL_VARIABLE = "PYMOTOR_CONTROLLER"


class TargetError(Exception):
    """It is not clear which Controller is meant, or what to show it; the message says what to do."""


class Target(NamedTuple):
    """Where a Controller is, and what to show it."""

    url: str
    token: ClusterToken | None
    certificates: Trust | None = None
    """For https:; None: the system's."""


def add_controller_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which Controller is meant."""
    add_fleet_options(parser).add_argument(
        "--controller",
        metavar="URL",
        help=f"a Controller of another cluster, with the token of ${TOKEN_VARIABLE}; default: ${URL_VARIABLE}",
    )
    add_certificate_options(parser)


def controller_of(arguments: argparse.Namespace, variables: Mapping[str, str] = os.environ) -> Target:
    """The Controller that a command line means: what an option says, else the environment, else the fleet that runs.

    Raises `TargetError`.
    """
    names_a_fleet = arguments.fleet is not None or arguments.port is not None
    url = arguments.controller or ("" if names_a_fleet else variables.get(URL_VARIABLE, ""))
    try:
        if url:
            token = ClusterToken.from_environment(variables)
            return Target(url.rstrip("/"), token, certificates_for((url,), arguments, variables))
        return _of_local(choose_fleet(state_home(), arguments.fleet, arguments.port))
    except (FleetError, TokenError, TLSError, PlainURLError) as error:
        raise TargetError(str(error)) from error


def certificates_for(
    urls: Iterable[str], arguments: argparse.Namespace, variables: Mapping[str, str] = os.environ
) -> Trust | None:
    """Those of the command line, else of the environment; see `certificates_of`.

    Raises `TLSError`, and `PlainURLError` where they are named for a URL that would be asked without them.
    """
    certificates = certificates_of(arguments, variables)
    for url in urls if certificates is not None else ():
        if not url.startswith("https:"):
            raise PlainURLError(f"certificates are named, but {url} is plain HTTP; write https:")
    return certificates


def _of_local(fleet: FleetDirectory | None) -> Target:
    """Raises `TargetError` when the fleet does not run."""
    state = fleet.read_state() if fleet is not None else None
    if fleet is None or state is None or not state.running:
        raise TargetError(
            "no such fleet runs on this machine. Start one with `pymotor up`, or say where the Controller is with "
            f"--controller or {URL_VARIABLE}"
        )
    if not state.controller_url:
        raise TargetError(f"fleet {fleet.name} has no Controller: an older PyMotor started it")
    try:
        return Target(state.controller_url, fleet.read_token(), state.management_certificates())
    except OSError as error:
        raise TargetError(f"the token of fleet {fleet.name} cannot be read: {error}") from error
