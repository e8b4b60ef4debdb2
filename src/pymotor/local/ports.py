"""TCP ports for one fleet, claimed so that another `pymotor up` does not take them before their servers listen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from pymotor.engines.host import can_listen
from pymotor.local.state import FleetError, make_private


class PortClaims:
    """Ports that belong to this process until it closes them or ends.

    A claim is a lock on a file named after the port, which the kernel gives back when the holder dies. All fleets
    of a user on one machine share these files, wherever their state is kept.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Raises `FleetError` when the directory of the locks belongs to somebody else."""
        self._directory = directory or Path(tempfile.gettempdir()) / f"pymotor-ports-{os.getuid()}"
        make_private(self._directory)
        if self._directory.stat().st_uid != os.getuid():
            raise FleetError(f"{self._directory} belongs to another user; set TMPDIR to a directory of your own")
        self._locks = contextlib.ExitStack()

    def claim(self, address: str, port: int) -> bool:
        """Take the port; False when somebody listens on it or has claimed it."""
        lock = open(self._directory / str(port), "wb")  # noqa: SIM115 - closed by the exit stack
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        if not can_listen(address, port):
            lock.close()
            return False
        self._locks.callback(lock.close)
        return True

    def close(self) -> None:
        """Give all of them back."""
        self._locks.close()
