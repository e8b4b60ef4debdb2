"""What may go, and its removal.

An item goes when it is older than wanted, or, the least recently used first, when the store is larger than wanted; in
both cases only when it has been neither read nor written for longer than a request may take (`Limits.window`). Within
that time a request may still rely on it: its encode leg is through, and prefill is to read it. Engines fail when an
item vanishes between their look and their read, so no wish overrides the window; where reads are not seen at all
nothing goes.

What no reader will take goes as soon as surely nobody is writing it any more: as long as it is there, engines take it
for an item and fail on it instead of encoding anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pymotor.ec_store.reading import Reads
from pymotor.ec_store.store import Contents, Item, Leftover, Store

_Entry = TypeVar("_Entry")

WRITING_SECONDS = 60.0
"""A corrupt item that was not written for so long is not being written."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is wanted. Seconds and bytes; None: no limit."""

    older_than: float | None = None
    max_bytes: int | None = None
    window: float
    """How long a request may still use what was read or written."""
    engines_stopped: bool = False
    """No engine uses the store, so the window does not count and what engines only need while they run goes too."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to go."""

    items: tuple[Item, ...]
    in_use: int
    """Items that are older than wanted but may be in use."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What became of it."""

    reads: Reads
    items: int
    """Removed, corrupt ones among them; with a dry run: to be removed."""
    corrupt: int
    leftovers: int
    directories: int
    """Directories of items that were removed as well."""
    bytes: int
    in_use: int
    items_left: int
    bytes_left: int
    over_limit: int
    """Bytes above the size wanted that may be in use."""
    failures: tuple[str, ...]

    @property
    def removed(self) -> int:
        """Everything that was removed."""
        return self.items + self.leftovers + self.directories


def choose(contents: Contents, limits: Limits, reads: Reads, now: float) -> Choice:
    """Decide which items go. `now`: seconds since 1970."""
    seen = Reads.EACH if limits.engines_stopped else reads
    window = 0.0 if limits.engines_stopped else limits.window
    writing = 0.0 if limits.engines_stopped else WRITING_SECONDS
    broken = [item for item in contents.corrupt if now - item.written > writing]
    ages = [(now - item.last_use(seen, now), item) for item in contents.items if not item.problem]
    ages.sort(key=lambda aged: aged[0], reverse=True)
    left = contents.size - sum(item.size for item in broken)
    gone: list[Item] = []
    in_use = 0
    for age, item in ages:
        too_old = limits.older_than is not None and now - max(item.read, item.written) > limits.older_than
        too_much = limits.max_bytes is not None and left > limits.max_bytes
        # Where reads are not seen each age is 0, and so not above any limit.
        if age > window and ((limits.older_than is not None and age > limits.older_than) or too_much):
            gone.append(item)
            left -= item.size
        elif too_old:
            in_use += 1
    return Choice(items=(*broken, *gone), in_use=in_use)


def collect(store: Store, limits: Limits, *, dry_run: bool = False) -> Collected:
    """Collect once; with `dry_run` only say what would go.

    Beside running engines it must be called again and again, at best more often than once in the window: where only
    first reads are seen, an item whose last read is not sure is kept, and watched from then on. Raises
    `NotAStoreError`, `StoppedError`.
    """
    if not dry_run:
        store.try_reads()
    contents = store.contents()
    now = time.time()
    choice = choose(contents, limits, store.reads, now)
    leftovers = _old_leftovers(contents.leftovers, limits, now)
    empty = contents.empty if limits.engines_stopped else ()
    if dry_run:
        return _report(store, contents, choice, choice.items, leftovers, len(empty), limits, [])
    failures: list[str] = []
    removed = [item for item in choice.items if _tried(failures, item.identifier, store.remove, item)]
    swept = [one for one in leftovers if _tried(failures, one.identifier, store.remove_leftover, one)]
    gone = {item.identifier for item in removed}
    for item in contents.items:
        if item.identifier not in gone:
            store.watch(item, now)
    directories = {*empty, *gone, *(one.identifier for one in swept)} if limits.engines_stopped else ()
    emptied = sum(map(store.remove_empty, sorted(directories)))
    return _report(store, contents, choice, removed, swept, emptied, limits, failures)


def _old_leftovers(leftovers: Sequence[Leftover], limits: Limits, now: float) -> list[Leftover]:
    still_writing = 0.0 if limits.engines_stopped else max(limits.window, WRITING_SECONDS)
    return [leftover for leftover in leftovers if now - leftover.written > still_writing]


def _report(
    store: Store,
    contents: Contents,
    choice: Choice,
    removed: Sequence[Item],
    leftovers: Sequence[Leftover],
    directories: int,
    limits: Limits,
    failures: list[str],
) -> Collected:
    size = sum(item.size for item in removed) + sum(leftover.size for leftover in leftovers)
    left = contents.size - size
    return Collected(
        reads=store.reads,
        items=len(removed),
        corrupt=sum(bool(item.problem) for item in removed),
        leftovers=len(leftovers),
        directories=directories,
        bytes=size,
        in_use=choice.in_use,
        items_left=len(contents.items) - len(removed),
        bytes_left=left,
        over_limit=max(0, left - limits.max_bytes) if limits.max_bytes is not None else 0,
        failures=tuple(failures),
    )


def _tried(failures: list[str], name: str, remove: Callable[[_Entry], bool], entry: _Entry) -> bool:
    """Whether it was removed; why not is added to `failures`."""
    try:
        return remove(entry)
    except OSError as error:
        failures.append(f"{name} cannot be removed: {error.strerror}")
        return False
