"""TCP ports, claimed so that another process of PyMotor does not take them before their servers listen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from pymotor.engines.host import can_listen


class PortClaimError(OSError):
    """Ports cannot be claimed on this machine; the message says what to do."""


class PortClaims:
    """Ports that belong to this process until it closes them or ends.

    A claim is a lock on a file named after the port, which the kernel gives back when the holder dies. All processes
    of a user on one machine share these files, wherever their state is kept.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Raises `PortClaimError` when the directory of the locks belongs to somebody else."""
        self._directory = directory or Path(tempfile.gettempdir()) / f"pymotor-ports-{os.getuid()}"
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if self._directory.stat().st_uid != os.getuid():
            raise PortClaimError(f"{self._directory} belongs to another user; set TMPDIR to a directory of your own")
        self._locks = contextlib.ExitStack()

    def claim(self, address: str, port: int) -> bool:
        """Take a port that any program of this machine may still listen on; False when somebody does or has
        claimed it. Connections of a former server that wait for their end do not matter."""
        return self._claim(address, port, can_listen)

    def claim_unbound(self, address: str, port: int) -> bool:
        """Take a port that no socket at all is bound to. vLLM binds its port with SO_REUSEPORT long before it
        listens; a second one on that port would start just as well, and they would share each other's requests."""
        return self._claim(address, port, _nobody_is_bound)

    def _claim(self, address: str, port: int, is_free: Callable[[str, int], bool]) -> bool:
        lock = open(self._directory / str(port), "wb")  # noqa: SIM115 - closed by the exit stack
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        if not is_free(address, port):
            lock.close()
            return False
        self._locks.callback(lock.close)
        return True

    def close(self) -> None:
        """Give all of them back."""
        self._locks.close()


def _nobody_is_bound(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return can_listen(address, port)
