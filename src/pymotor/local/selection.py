"""Which fleet a verb means."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymotor.local.state import FleetDirectory, FleetError, all_fleets


def add_fleet_options(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """The options that name one fleet, of which one may be given; returns their group."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--name",
        dest="fleet",
        metavar="NAME",
        help="the fleet's name: what `up --name` said, else its port (default: the fleet that runs)",
    )
    which.add_argument("--port", type=int, metavar="N", help="the fleet whose clients use port N")
    return which


def running_fleets(home: Path) -> list[FleetDirectory]:
    """Those whose `pymotor up` lives."""
    return [fleet for fleet in all_fleets(home) if (state := fleet.read_state()) is not None and state.running]


def choose_fleet(home: Path, name: str | None, port: int | None) -> FleetDirectory | None:
    """The fleet that is meant: by name, by port, or the one that runs (else the one that ran last).

    None when there is none. Raises `FleetError` when several could be meant.
    """
    fleets = all_fleets(home)
    if name is not None:
        return next((fleet for fleet in fleets if fleet.name == name), None)
    if port is not None:
        fleets = [fleet for fleet in fleets if _inference_port(fleet) == port]
    running = [fleet for fleet in fleets if (state := fleet.read_state()) is not None and state.running]
    if len(running) > 1:
        names = ", ".join(fleet.name for fleet in running)
        raise FleetError(f"several fleets run: {names}. Say which one is meant: --name NAME.")
    if running:
        return running[0]
    return max(fleets, key=lambda fleet: fleet.state_file.stat().st_mtime, default=None)


def _inference_port(fleet: FleetDirectory) -> int | None:
    state = fleet.read_state()
    return int(state.url.rpartition(":")[2]) if state is not None else None
