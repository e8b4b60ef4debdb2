"""`pymotor down`: stop fleets that `pymotor up` started."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from pymotor.local.processes import is_alive, kill_groups, terminate
from pymotor.local.selection import add_fleet_options, choose_fleet, running_fleets
from pymotor.local.state import FleetDirectory, FleetError, all_fleets, state_home

GRACE = 60.0
"""Seconds for `pymotor up` to stop its processes before they are killed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_fleet_options(parser).add_argument("--all", action="store_true", help="every fleet of this user")
    parser.add_argument("--json", action="store_true", help='print {"stopped": [NAMES]}')
    parser.epilog = (
        "Returns when no process is left. What a killed `pymotor up` left behind is ended too. "
        "Exit status: 0 stopped (or nothing ran), 1 a fleet could not be stopped, 2 wrong usage."
    )


def run(arguments: argparse.Namespace) -> int:
    """Stop the fleet that is meant; returns the exit status."""
    try:
        home = state_home()
        fleets = all_fleets(home) if arguments.all else [choose_fleet(home, arguments.fleet, arguments.port)]
        stopped = [fleet.name for fleet in fleets if fleet is not None and stop(fleet)]
    except FleetError as error:
        print(f"pymotor down: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({"stopped": stopped}))
    elif stopped:
        print(f"stopped {', '.join(stopped)}; no process is left")
    else:
        others = ", ".join(fleet.name for fleet in running_fleets(home))
        print("no such fleet runs" + (f"; running: {others}" if others else ""))
    return 0


def stop(fleet: FleetDirectory) -> bool:
    """End the fleet and whatever is left of it; returns whether there was anything to end.

    Raises `FleetError` when a process outlives even SIGKILL, or the state cannot be read.
    """
    state = fleet.read_state()
    if state is None:
        return False
    was_running = state.running
    if was_running:
        terminate(state.supervisor, GRACE)
        state = fleet.read_state() or state
    everybody = (state.supervisor, *state.processes.values()) if was_running else tuple(state.processes.values())
    remains = [process for process in everybody if is_alive(process)]
    kill_groups(remains)
    survivors = [process.pid for process in remains if is_alive(process)]
    if survivors:
        raise FleetError(f"processes {survivors} of fleet {fleet.name} do not end, even by SIGKILL")
    shutil.rmtree(fleet.embeddings, ignore_errors=True)
    return was_running or bool(remains)
