"""A lease in a file, for Controllers of one machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pymotor.controller.lease import LeaseError, LeaseRecord

_FILE = "lease.json"
_LOCK = "lease.lock"


class FileLease:
    """JSON in a directory: each write is made under a lock, to another file that then takes the place of the last."""

    def __init__(self, directory: Path) -> None:
        """Raises `LeaseError` when the directory cannot be made."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LeaseError(f"the state directory {directory} cannot be made: {error}") from error

    async def read(self) -> tuple[LeaseRecord | None, str]:
        """See `Lease.read`."""
        return await asyncio.to_thread(self._read)

    async def swap(self, record: LeaseRecord, version: str) -> str | None:
        """See `Lease.swap`."""
        return await asyncio.to_thread(self._swap, record, version)

    def holder_is_dead(self, record: LeaseRecord) -> bool:
        """See `Lease.holder_is_dead`: the process is no more, and this is its machine."""
        if not record.pid or record.machine != _machine():
            return False
        started = _start_time(record.pid)
        return started is None or started != record.started

    def identify(self, record: LeaseRecord) -> LeaseRecord:
        """See `Lease.identify`."""
        pid = os.getpid()
        return replace(record, machine=_machine(), pid=pid, started=_start_time(pid) or 0)

    def _read(self) -> tuple[LeaseRecord | None, str]:
        try:
            content = (self._directory / _FILE).read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            raise LeaseError(f"the lease in {self._directory} cannot be read: {error}") from error
        try:
            record = msgspec.json.decode(content, type=LeaseRecord)
        except msgspec.MsgspecError as error:
            raise LeaseError(f"{self._directory / _FILE} is no lease: {error}; remove it") from error
        return record, hashlib.sha256(content).hexdigest()

    def _swap(self, record: LeaseRecord, version: str) -> str | None:
        try:
            with self._locked():
                if self._read()[1] != version:
                    return None
                content = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
                self._write(content)
        except OSError as error:
            raise LeaseError(f"the lease in {self._directory} cannot be written: {error}") from error
        return hashlib.sha256(content).hexdigest()

    def _write(self, content: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=_FILE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._directory / _FILE)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Closing it ends the lock. A holder that is stopped while it has the lock keeps others from leading; it has it
        # for the time of one small write.
        with (self._directory / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    # A container has its own processes: a pid says nothing to another one.
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {boot} {space}"


def _start_time(pid: int) -> int | None:
    """Clock ticks after boot; 0 where the system does not say; None: there is no such process, or only its remains."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    return None if words[0] in "ZX" else int(words[19])
