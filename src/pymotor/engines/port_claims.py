"""TCP ports, claimed so that another process of PyMotor does not take them before their servers listen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pymotor.engines.host import can_listen


class PortClaimError(OSError):
    """Ports cannot be claimed on this machine; the message says what to do."""


class PortClaims:
    """Ports that belong to this process until it closes them or ends.

    A claim is a lock on a file named after the port, which the kernel gives back when the holder dies. All processes
    of a user on one machine share these files, wherever their state is kept. A file goes with its claim; that of a
    holder which died stays until the port is claimed again.
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
        path = self._directory / str(port)
        lock = _locked(path)
        if lock is None:
            return False
        if not is_free(address, port):
            _give_back(path, lock)
            return False
        self._locks.callback(_give_back, path, lock)
        return True

    def close(self) -> None:
        """Give all of them back."""
        self._locks.close()


def _locked(path: Path) -> BinaryIO | None:
    """The file of this name, locked; None when somebody has claimed it."""
    while True:
        lock = open(path, "wb")  # noqa: SIM115 - closed by who is given it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        if _is_file(path, lock):
            return lock
        lock.close()  # its former holder removed it between the opening and the lock


def _is_file(path: Path, opened: BinaryIO) -> bool:
    """Whether what is opened is still the file of this name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _give_back(path: Path, lock: BinaryIO) -> None:
    """Remove the file while it is still locked: whoever opened it before then finds that it is no more."""
    path.unlink(missing_ok=True)
    lock.close()


def _nobody_is_bound(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return can_listen(address, port)
