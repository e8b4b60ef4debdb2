"""`pymotor top`: the fleet in the terminal, again and again."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator

import msgspec

from pymotor.control_plane import ClusterToken, TokenError
from pymotor.control_plane.arguments import add_certificate_options, some_seconds
from pymotor.control_plane.asking import PlainURLError
from pymotor.control_plane.tls import TLSError
from pymotor.local.selection import add_fleet_options, choose_fleet
from pymotor.local.state import FleetError, state_home
from pymotor.operate.target import certificates_for
from pymotor.operate.top_reading import Port, Reader, ReadingError
from pymotor.operate.top_screen import screen

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""Another screen without a cursor, and back."""
_HOME = "\x1b[H"
_CLEAR_BELOW = "\x1b[J"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_fleet_options(parser)
    parser.add_argument("--management", metavar="URL", help="a Coordinator elsewhere: its management port")
    parser.add_argument("--observability", metavar="URL", help="and its observability port")
    parser.add_argument(
        "--interval", type=some_seconds, default=2.0, metavar="SECONDS", help="between two readings (default: 2)"
    )
    parser.add_argument("--once", action="store_true", help="show it once, with the rates of one interval")
    parser.add_argument("--json", action="store_true", help="print each reading as a line of JSON")
    add_certificate_options(parser)
    parser.epilog = "Ctrl-C ends it. Exit status: 0 done, 1 the Coordinator does not answer, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Show it until Ctrl-C; returns the exit status."""
    try:
        management, observability = _asked(arguments)
        token = ClusterToken.from_environment()
    except (FleetError, TokenError, TLSError, PlainURLError) as error:
        print(f"pymotor top: {error}", file=sys.stderr)
        return 1
    reader = Reader(management, observability, token)
    drawn = sys.stdout.isatty() and not arguments.json and not arguments.once
    try:
        with _own_screen() if drawn else contextlib.nullcontext():
            _show(reader, arguments, drawn=drawn)
    except ReadingError as error:
        print(f"pymotor top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        reader.close()
    return 0


def _show(reader: Reader, arguments: argparse.Namespace, *, drawn: bool) -> None:
    """Raises `ReadingError`."""
    while True:
        found = reader.read()
        if found is not None:
            if arguments.json:
                print(msgspec.json.encode(found).decode(), flush=True)
            else:
                size = shutil.get_terminal_size() if drawn else None
                colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
                lines = screen(found, colour=colour, rows=size.lines if size else None)
                text = "".join(f"{line}\x1b[K\n" if drawn else f"{line}\n" for line in lines)
                print(f"{_HOME}{text}{_CLEAR_BELOW}" if drawn else text, end="" if drawn else "\n", flush=True)
            if arguments.once:
                return
        time.sleep(arguments.interval)


def _asked(arguments: argparse.Namespace) -> tuple[Port, Port]:
    """Management and observability. Raises `FleetError`, `TLSError`, `PlainURLError`."""
    if arguments.management and arguments.observability:
        # Each plane has a switch of its own.
        urls = [url for url in (arguments.management, arguments.observability) if url.startswith("https:")]
        certificates = certificates_for(urls or [arguments.management], arguments)
        return Port(arguments.management, certificates), Port(arguments.observability, certificates)
    if arguments.management or arguments.observability:
        raise FleetError("--management and --observability go together")
    fleet = choose_fleet(state_home(), arguments.fleet, arguments.port)
    state = fleet.read_state() if fleet is not None else None
    if state is None or not state.running:
        raise FleetError(
            "no such fleet runs on this machine. Start one with `pymotor up`, or say where its Coordinator is with "
            "--management and --observability"
        )
    return (
        Port(state.management_url, state.management_certificates()),
        Port(state.observability_url, state.observability_certificates()),
    )


@contextlib.contextmanager
def _own_screen() -> Iterator[None]:
    print(_ENTER, end="", flush=True)
    try:
        yield
    finally:
        print(_LEAVE, end="", flush=True)
