"""`pymotor logs`: what the processes of a fleet wrote."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from pymotor.local.log_tail import last_lines
from pymotor.local.selection import add_fleet_options, choose_fleet
from pymotor.local.state import FleetDirectory, FleetError, state_home

_POLL_SECONDS = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "process",
        nargs="?",
        metavar="NAME",
        help="one process: coordinator, prefill-0, …, or up for `pymotor up` itself (default: all of them)",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the fleet ends, or Ctrl-C")
    parser.add_argument(
        "-n", "--lines", type=int, default=20, metavar="N", help="last lines of each to begin with (default: 20)"
    )
    add_fleet_options(parser)
    parser.epilog = "Logs stay after a fleet has ended, until the next one of its name but one."


def run(arguments: argparse.Namespace) -> int:
    """Print the logs; returns the exit status (3: there is no such fleet)."""
    try:
        fleet = choose_fleet(state_home(), arguments.fleet, arguments.port)
        if fleet is None:
            print("pymotor logs: no such fleet has run", file=sys.stderr)
            return 3
        files = _log_files(fleet, arguments.process)
    except FleetError as error:
        print(f"pymotor logs: {error}", file=sys.stderr)
        return 1
    width = max(len(file.stem) for file in files) if len(files) > 1 else 0
    if arguments.follow:
        _follow(fleet, arguments.process, width, arguments.lines)
    else:
        for file in files:
            for line in last_lines(file, arguments.lines):
                print(_labelled(file, line, width))
    return 0


def _log_files(fleet: FleetDirectory, process: str | None) -> list[Path]:
    """The logs that are meant. Raises `FleetError` when there is none of that name."""
    files = sorted(fleet.logs.glob("*.log")) if fleet.logs.is_dir() else []
    if process is None:
        if not files:
            raise FleetError(f"fleet {fleet.name} has no logs")
        return files
    chosen = [file for file in files if file.stem == process]
    if not chosen:
        names = ", ".join(file.stem for file in files) or "none"
        raise FleetError(f"fleet {fleet.name} has no process {process}; there are: {names}")
    return chosen


def _follow(fleet: FleetDirectory, process: str | None, width: int, lines: int) -> None:
    """Print what is there and what comes, also in logs that appear later, until the fleet has ended."""
    followed: dict[Path, _Follower] = {}
    with contextlib.ExitStack() as opened:
        first = True
        while True:
            state = fleet.read_state()
            ended = state is None or not state.running
            with contextlib.suppress(FleetError):
                for file in _log_files(fleet, process):
                    if file not in followed:
                        followed[file] = opened.enter_context(_Follower(file, lines if first else None))
            first = False
            for file, follower in followed.items():
                for line in follower.new_lines():
                    print(_labelled(file, line, width), flush=True)
            if ended:
                return
            time.sleep(_POLL_SECONDS)


class _Follower:
    """Gives the lines of one growing file, each once and whole."""

    def __init__(self, path: Path, last: int | None) -> None:
        """`last`: how many of the lines that are there to begin with; None: all."""
        self._file = path.open("rb")
        self._rest = b""
        self._first: list[str] = []
        if last is not None:
            content = self._file.read()
            whole, newline, self._rest = content.rpartition(b"\n")
            lines = whole.decode(errors="replace").splitlines() if newline else []
            self._first = lines[-last:] if last > 0 else []

    def __enter__(self) -> _Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def new_lines(self) -> list[str]:
        """What came since the last call."""
        first, self._first = self._first, []
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return first + [line.decode(errors="replace") for line in whole]


def _labelled(file: Path, line: str, width: int) -> str:
    return f"{file.stem:<{width}} | {line}" if width else line
