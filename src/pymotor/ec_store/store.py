"""One store: what is in it, and the removal of what somebody else decided on.

Everything is done relative to open directories and without following symbolic links, so that nothing outside the
store can be read or removed, also when entries are exchanged meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pymotor.ec_store.layout import FILE, file_problem, is_content_hash, is_leftover, is_plain_name
from pymotor.ec_store.reading import Reads, is_unsure, last_use, reads_move, reads_seen, watch_again

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WITHOUT_TRACE = getattr(os, "O_NOATIME", 0)


class NotAStoreError(Exception):
    """The path is not, or does not look like, a store of ECExampleConnector; the message says why."""


class StoppedError(Exception):
    """Somebody wanted the work to end."""


@dataclass(frozen=True)
class Item:
    """One embedding. Times are seconds since 1970."""

    identifier: str
    size: int
    """Bytes."""
    read: float
    written: float
    changed: float
    """When its inode last changed."""
    problem: str
    """Why no reader will take it; empty when one will."""
    identity: tuple[int, int, int]
    """Inode, time of modification and time of access (ns): whether it is still what was looked at."""

    def last_use(self, reads: Reads, now: float) -> float:
        """The latest time at which it may have been read or written."""
        return last_use(self.read, self.written, self.changed, reads, now)


@dataclass(frozen=True)
class Leftover:
    """A temporary file that a writer has, or left when it was killed."""

    identifier: str
    name: str
    size: int
    written: float


@dataclass(frozen=True)
class Contents:
    """What is in a store."""

    items: tuple[Item, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    empty: tuple[str, ...] = ()
    """Identifiers whose directory has nothing in it: engines make one whenever they look for an item."""
    not_plain: tuple[str, ...] = ()
    """Directories with an item whose names are not plain identifiers; never touched."""
    foreign: int = 0
    """Entries that are nothing of ECExampleConnector's; never touched."""

    @property
    def size(self) -> int:
        """Bytes of all items and leftovers."""
        return sum(item.size for item in self.items) + sum(leftover.size for leftover in self.leftovers)

    @property
    def corrupt(self) -> tuple[Item, ...]:
        """Items that no reader will take."""
        return tuple(item for item in self.items if item.problem)


class Store:
    """An open store; a context manager."""

    def __init__(self, path: Path, stopped: Callable[[], bool] | None = None) -> None:
        """Once `stopped()` is true, work in progress ends with `StoppedError`. Raises `NotAStoreError` when there is
        no such directory, or `path` is a symbolic link."""
        self.path = path
        self._stopped = stopped
        try:
            self._directory = os.open(path, _DIRECTORY)
        except OSError as error:
            linked = path.is_symlink()
            why = "it is a symbolic link; give the path it points to" if linked else error.strerror
            raise NotAStoreError(f"{path} cannot be opened as a directory: {why}") from error
        self.reads = reads_seen(path, self._directory)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._directory)

    def try_reads(self) -> None:
        """Make sure by a try that reads are seen. Writes one small file and removes it."""
        if self.reads is not Reads.NONE and not reads_move(self._directory):
            self.reads = Reads.NONE

    def contents(self) -> Contents:
        """Look at everything. Raises `NotAStoreError` for a directory with something in it, but no item."""
        items: list[Item] = []
        leftovers: list[Leftover] = []
        empty: list[str] = []
        not_plain: list[str] = []
        foreign = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                self._go_on()
                if not entry.is_dir(follow_symlinks=False):
                    foreign += not _is_probe(entry.name)
                    continue
                with self._open(entry.name) as directory:
                    if directory is None:
                        foreign += 1
                    elif not is_plain_name(entry.name):
                        not_plain.append(entry.name)
                    else:
                        item, beside, others = _look(entry.name, directory)
                        items += [item] if item is not None else []
                        leftovers += beside
                        foreign += others
                        if item is None and not beside and not others:
                            if is_content_hash(entry.name):
                                empty.append(entry.name)
                            else:
                                foreign += 1
        found = Contents(tuple(items), tuple(leftovers), tuple(empty), tuple(not_plain), foreign)
        self._require_store(found)
        return found

    def _require_store(self, found: Contents) -> None:
        if found.items:
            return
        # A store before its first item, or after its last one.
        known = (*found.empty, *(leftover.identifier for leftover in found.leftovers))
        if found.foreign or found.not_plain or not all(map(is_content_hash, known)):
            raise NotAStoreError(
                f"{self.path} does not look like a store of ECExampleConnector: there is no IDENTIFIER/{FILE} in it"
            )

    def remove(self, item: Item) -> bool:
        """Remove the item's file if it is still what was looked at; False when it was read or written meanwhile, or is
        gone. Its directory stays: an encoder makes it long before it writes, and would fail without it.

        An engine that has the file open, or mapped, keeps what it has. Raises `OSError` when it cannot be removed.
        """
        self._go_on()
        with self._open(item.identifier) as directory:
            if directory is None or _identity(directory) != item.identity:
                return False
            os.unlink(FILE, dir_fd=directory)
            return True

    def remove_leftover(self, leftover: Leftover) -> bool:
        """Remove a temporary file; False when it is gone. Raises `OSError` when it cannot be removed."""
        with self._open(leftover.identifier) as directory:
            if directory is None:
                return False
            try:
                os.unlink(leftover.name, dir_fd=directory)
            except FileNotFoundError:
                return False
            return True

    def remove_empty(self, identifier: str) -> bool:
        """Remove an item's directory if it is empty. Not beside running engines: see `remove`."""
        try:
            os.rmdir(identifier, dir_fd=self._directory)
        except OSError:
            return False
        return True

    def watch(self, item: Item, now: float) -> None:
        """Where only first reads are seen: have the next one of this item seen. Nothing for others' files, which are
        then taken for read until a day after their recorded read."""
        if self.reads is not Reads.FIRST or not is_unsure(item.read, item.changed):
            return
        with self._open(item.identifier) as directory, contextlib.suppress(OSError):
            if directory is None:
                return
            file = os.open(FILE, _FILE, dir_fd=directory)
            try:
                watch_again(file, os.fstat(file).st_mtime_ns, now)
            finally:
                os.close(file)

    def _go_on(self) -> None:
        if self._stopped is not None and self._stopped():
            raise StoppedError(str(self.path))

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[int | None]:
        """The directory of that name in the store; None when there is none that may be opened."""
        try:
            directory = os.open(name, _DIRECTORY, dir_fd=self._directory)
        except OSError:
            yield None
            return
        try:
            yield directory
        finally:
            os.close(directory)


def _look(identifier: str, directory: int) -> tuple[Item | None, list[Leftover], int]:
    """The item in its open directory, writers' temporary files, and the number of other entries."""
    item: Item | None = None
    leftovers: list[Leftover] = []
    others = 0
    for name in os.listdir(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:  # renamed or removed since it was listed
            continue
        if not stat.S_ISREG(status.st_mode):
            others += 1
        elif name == FILE:
            item = _item(identifier, directory)
            others += item is None
        elif is_leftover(name):
            leftovers.append(Leftover(identifier, name, status.st_size, status.st_mtime))
        else:
            others += 1
    if others or not (item is not None or is_content_hash(identifier)):
        # Not an engine's directory, or not only: nothing but an item itself is known to be a writer's.
        others += len(leftovers)
        leftovers = []
    return item, leftovers, others


def _item(identifier: str, directory: int) -> Item | None:
    """The item with its file looked at, which does not count as a read; None when it is gone or may not be opened."""
    try:
        file = _open_file(directory)
    except OSError:
        return None
    try:
        problem = file_problem(file, os.fstat(file).st_size)
        status = os.fstat(file)
    finally:
        os.close(file)
    return Item(
        identifier=identifier,
        size=status.st_size,
        read=status.st_atime,
        written=status.st_mtime,
        changed=status.st_ctime,
        problem=problem,
        identity=(status.st_ino, status.st_mtime_ns, status.st_atime_ns),
    )


def _open_file(directory: int) -> int:
    try:
        return os.open(FILE, _FILE | _WITHOUT_TRACE, dir_fd=directory)
    except PermissionError:  # another user's file, or unreadable: looking at it counts as a read
        return os.open(FILE, _FILE, dir_fd=directory)


def _identity(directory: int) -> tuple[int, int, int] | None:
    try:
        status = os.stat(FILE, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_atime_ns)


def _is_probe(name: str) -> bool:
    return name.startswith(".pymotor-")
