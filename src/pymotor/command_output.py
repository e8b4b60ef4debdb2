"""Commands whose standard output takes no more: one line and a status of failure; no line where its reader went."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _OutputError(Exception):
    """Standard output takes no more."""


class Parser(argparse.ArgumentParser):
    """Fails where its help cannot be written, which argparse passes over."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Raises `OSError`."""
        to = sys.stdout if file is None else file
        if to is not None:
            to.write(self.format_help())


def in_one_line(program: str, command: Callable[[], int]) -> int:
    """Run `command`; returns its exit status, or that of output that could not be written or of Ctrl-C. `program` is
    how the line begins."""
    try:
        try:
            return command()
        finally:
            _flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is left to say.
        discard_output()
        return 141
    except _OutputError as error:
        return _no_room(program, f"standard output cannot be written: {error}")
    except OSError as error:
        # What is longer than a buffer fails where it is printed, and nothing is left that could be flushed.
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        return _no_room(program, f"something cannot be written: {error.strerror}")


def discard_output() -> None:
    """What is still in the buffer of standard output, and what comes, goes nowhere: not even Python's exit fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)


def _flush() -> None:
    """What stayed in the buffer would fail at Python's exit, which has words and a status of its own. Raises
    `BrokenPipeError`, `_OutputError`."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _OutputError(error.strerror) from error


def _no_room(program: str, why: str) -> int:
    discard_output()
    print(f"{program}: {why}; make room, or write it to another place", file=sys.stderr)
    return 1
