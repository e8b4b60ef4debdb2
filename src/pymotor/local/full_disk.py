"""A disk that is full: what follows from it is told in many ways, of which few name it."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from pathlib import Path

from pymotor.local.state import HOME_VARIABLE, FleetError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOOK_SECONDS = 1.0
_PROBE = b"\0" * 4096


def full_disk(directory: Path) -> str:
    """What to do about the disk of `directory`, on which nothing can be written any more; empty: something can."""
    try:
        left = os.statvfs(directory)
        if left.f_bavail and left.f_favail:
            return ""
        # Some file systems count no files, and some keep a part for the system's own user.
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(_PROBE)
    except OSError as error:
        if error.errno in _FULL:
            return (
                f"no space is left on the disk of {directory}: make room there, or set {HOME_VARIABLE} to a directory "
                "on another disk"
            )
    return ""


async def unless_full(directory: Path, waiting: asyncio.Task[None]) -> None:
    """Wait for a task that may be over only when others have written. Raises `FleetError` when they cannot: some try
    again for as long as they are given, and have no log to say why."""
    try:
        while not (await asyncio.wait((waiting,), timeout=_LOOK_SECONDS))[0]:
            cause = await asyncio.to_thread(full_disk, directory)
            if cause:
                raise FleetError(cause)
        waiting.result()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def with_cause(failure: str, directory: Path) -> str:
    """A failure in words, and before it the full disk that it comes of, if there is one."""
    cause = full_disk(directory)
    return failure if not cause or cause in failure else f"{cause}\n{failure}"
