"""A lease in a file, for Controllers of one machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import socket
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pymotor.controller.lease import LeaseError, LeaseRecord

_FILE = "lease.json"
_TRIES = 20
_LONGEST_PAUSE = 0.05
"""Seconds between two tries to write."""


class FileLease:
    """JSON in a directory of one machine: each write is made to a draft, a file that then takes the place of the last.

    No lock: whoever is stopped while it has one would keep all others from leading for as long as it is stopped.
    Instead each writer, once its own draft is there, removes those of all others, looks whether the version is still
    the one that was read, and only then renames its draft, which fails when it was removed. Of two writers that saw the
    same version one finds the other's draft, since the second to look for drafts looks when the first has its own: so
    they do not both write, wherever one of them is stopped, for however long. What one that crashed left behind the
    next writer removes.
    """

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
        content = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
        try:
            for _ in range(_TRIES):
                if self._read()[1] != version:
                    return None
                if self._write(content, version):
                    return hashlib.sha256(content).hexdigest()
                # Two that remove each other's drafts at the same moment have both written nothing.
                time.sleep(random.uniform(0, _LONGEST_PAUSE))
        except OSError as error:
            raise LeaseError(f"the lease in {self._directory} cannot be written: {error}") from error
        raise LeaseError(f"the lease in {self._directory} cannot be written: others remove what is to be written")

    def _write(self, content: bytes, version: str) -> bool:
        """Whether it is written; not when there is another version meanwhile, or another writer removed the draft.

        Raises `OSError` and `LeaseError`.
        """
        descriptor, draft = tempfile.mkstemp(dir=self._directory, prefix=_FILE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._remove_drafts(but=os.path.basename(draft))
            # The order matters: what others write after this look, they write in spite of our draft.
            if self._read()[1] != version:
                return False
            try:
                os.replace(draft, self._directory / _FILE)
            except FileNotFoundError:
                return False
        finally:
            with contextlib.suppress(OSError):
                os.unlink(draft)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return True

    def _remove_drafts(self, but: str) -> None:
        for name in os.listdir(self._directory):
            if name.startswith(_FILE) and name not in (_FILE, but):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._directory / name)


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
