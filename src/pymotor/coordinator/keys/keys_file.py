"""The file in which an operator keeps API keys: JSON, hashes only, read and written by its owner alone.

Writers take a lock beside it (`<file>.lock`), write a new file and rename it, so that a reader sees the old keys or
the new ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from pymotor.control_plane.path_checks import is_directory
from pymotor.coordinator.keys.api_key import Scope
from pymotor.coordinator.keys.key_hash import KeyHash, KeyHashError

MOST_KEYS = 10_000
_LARGEST_FILE = 16 * 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""What a key may be called: it is a label of metrics."""
_ID = re.compile(r"[0-9a-f]{12}")


class KeysFileError(Exception):
    """The keys cannot be read or written; the message says why and what to do, and shows no hash."""


class KeysOutOfReachError(KeysFileError):
    """This process cannot get at the keys: they are not there, or this user may not. For another user, or on another
    machine, it may be otherwise."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key in the file. Times are RFC 3339."""

    id: str
    name: str
    hash: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    max_requests: int | None = None
    """In a window of `rate_limit_config`; None: what is said there for every key."""
    max_tokens: int | None = None

    def state(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class _Contents(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    keys: list[KeyRecord]
    version: int = 1


def read_keys(path: Path) -> list[KeyRecord]:
    """All keys of the file, revoked ones too. Raises `KeysFileError`, which is a `KeysOutOfReachError` where nothing is
    wrong but that this process cannot get at them."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _check_mode(path, status)
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError as error:
        hint = "make one with `pymotor api-key create`"
        raise KeysOutOfReachError(f"the keys file {path} cannot be read: {error.strerror}; {hint}") from error
    except IsADirectoryError as error:
        raise KeysFileError(_no_directory(path)) from error
    except OSError as error:
        raise KeysOutOfReachError(f"the keys file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise KeysOutOfReachError(f"the keys file {path} cannot be read: {error}; name a file") from error
    if len(data) > _LARGEST_FILE:
        raise KeysFileError(f"the keys file {path} is larger than {_LARGEST_FILE} bytes")
    try:
        contents = msgspec.json.decode(data, type=_Contents)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise KeysFileError(f"the keys file {path} cannot be understood: {error}") from error
    _check(path, contents)
    # Last: what is wrong for everybody is told first.
    if not _is_ours(status):
        raise KeysOutOfReachError(f"the keys file {path} belongs to another user; it must be this user's or root's")
    return contents.keys


@contextlib.contextmanager
def changing_keys(path: Path, *, may_be_new: bool = False) -> Iterator[list[KeyRecord]]:
    """The keys, to be changed within the block, which nobody else can meanwhile; written at its end unless it raises.

    `may_be_new`: a file that is not there yet has no keys. Raises `KeysFileError`.
    """
    if is_directory(path):
        raise KeysFileError(_no_directory(path))
    if not may_be_new and _is_missing(path):
        read_keys(path)  # says so, before there is a lock beside it
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise KeysFileError(
            f"the keys file {path} cannot be written, since {lock} beside it cannot: {why}; name a file in "
            "a directory that is there and that this user may write"
        ) from error
    try:
        _wait_for(descriptor, lock)
        keys = [] if _is_missing(path) else read_keys(path)
        yield keys
        contents = _Contents(keys=keys)
        _check(path, contents)
        _write(path, msgspec.json.format(msgspec.json.encode(contents), indent=2) + b"\n")
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, lock: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise KeysFileError(
            f"{lock} cannot be locked: {error.strerror}, so another command might write the keys at the same time; "
            "keep the keys file where files can be locked"
        ) from error


def _write(path: Path, data: bytes) -> None:
    try:
        # A new file of `mkstemp` is its owner's alone.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.resolve().parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path.resolve())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise KeysFileError(f"the keys file {path} cannot be written: {error.strerror}") from error


def _is_missing(path: Path) -> bool:
    """Not so where it cannot be known: reading it tells why."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _no_directory(path: Path) -> str:
    return f"the keys file {path} is a directory; name a file in it, such as {path / 'keys.json'}"


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _check_mode(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    # Kubernetes mounts a Secret as root's and readable by the pod's group.
    allowed = 0o740 if status.st_uid == 0 else 0o700
    if mode & 0o777 & ~allowed:
        raise KeysFileError(f"the keys file {path} has mode {mode:o}: others may use it; run: chmod 600 {path}")


def _check(path: Path, contents: _Contents) -> None:
    if contents.version != 1:
        raise KeysFileError(f"the keys file {path} has version {contents.version}; this PyMotor reads version 1")
    if len(contents.keys) > MOST_KEYS:
        raise KeysFileError(f"the keys file {path} has more than {MOST_KEYS} keys; remove those that are revoked")
    ids = set()
    names = set()
    for number, key in enumerate(contents.keys):
        where = f"key {number + 1} of the keys file {path}"
        if not _ID.fullmatch(key.id) or key.id in ids:
            raise KeysFileError(f"{where}: its id is not 12 hexadecimal digits of its own")
        if not NAME.fullmatch(key.name):
            raise KeysFileError(f"{where}: a name is 1 to 64 of A-Z a-z 0-9 . _ @ - and begins with none of the last")
        if key.revoked_at is None and key.name in names:
            raise KeysFileError(f"{where}: another key that is not revoked has the name {key.name}")
        if not key.scopes:
            raise KeysFileError(f"{where}: it has no scope")
        for moment in (key.created_at, key.expires_at, key.revoked_at):
            if moment is not None and moment.tzinfo is None:
                raise KeysFileError(f"{where}: a time has no offset from UTC")
        for most in (key.max_requests, key.max_tokens):
            if most is not None and most < 1:
                raise KeysFileError(f"{where}: a limit is less than 1")
        try:
            KeyHash(key.hash)
        except KeyHashError as error:
            raise KeysFileError(f"{where}: {error}") from error
        ids.add(key.id)
        if key.revoked_at is None:
            names.add(key.name)


def now() -> datetime:
    """This second in UTC."""
    return datetime.now(timezone.utc).replace(microsecond=0)
