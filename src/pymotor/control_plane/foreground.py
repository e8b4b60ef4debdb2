"""What a part says of itself to whoever started it in the foreground."""

from __future__ import annotations

import contextlib
import logging
import sys

from pymotor.command_output import discard_output

logger = logging.getLogger(__name__)


def lost_output(program: str, error: OSError) -> None:
    """Standard output failed: nothing more is written there, and standard error has a line, unless it was the reader
    that went away."""
    discard_output()
    if not isinstance(error, BrokenPipeError):
        with contextlib.suppress(OSError):
            failed(program, f"standard output cannot be written: {error.strerror}; write it to another place")


def announce(program: str, what: str) -> None:
    """One line to standard output: this program is ready, and `what` follows, as in `on http://HOST:PORT`."""
    try:
        print(f"pymotor {program} ready{what}", flush=True)
    except OSError as error:
        discard_output()
        logger.warning("standard output is closed, so nobody was told that %s is ready%s: %s", program, what, error)


def announce_url(program: str, url: str) -> None:
    """The same of one that answers at `url`."""
    announce(program, f" on {url}")


def failed(program: str, why: str, status: int = 1) -> int:
    """Say to standard error why it does not run; returns the exit status."""
    print(f"pymotor {program}: {why}", file=sys.stderr)
    return status
