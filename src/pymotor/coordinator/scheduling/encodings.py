"""Encodings of one worker: those under way, which others may wait for, and those that a store surely still holds.

A chat sends all its images again with each turn, and many requests ask about the same image at once. What is equal is
found by hash and then compared byte by byte: a hash that clients can make collide must not give one of them the
embeddings of another's image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, NamedTuple

import msgspec

from pymotor.coordinator.scheduling.target import Target
from pymotor.fleet import ECDialect, Instance

Part = dict[str, msgspec.Raw]

_ITEM_BYTES = 1024
"""About what an item costs beside its media: its entry, its metadata."""


class Encoding(msgspec.Struct, frozen=True):
    """What an encoder said of a media item."""

    encoder: str
    """The instance's name."""
    identifier: str = ""
    """Of the item's content, computed by the encoder: the name of the embeddings. Empty when it does not say."""
    metadata: msgspec.Raw | None = None
    """What a later stage needs to know in place of the media, or None when the encoder does not say."""
    parameters: Part = {}
    """The encoder's `ec_transfer_params`, each as it came."""
    held_at: Target | None = None
    """The endpoint that the embeddings are fetched from or that still sends them; None where they are in a store."""
    transfer_id: str = ""
    """The name of the push that brings the embeddings to their consumer, where they are pushed."""


class ItemKey(NamedTuple):
    """What must be equal for one encoding to serve two requests, the item's bytes apart."""

    scope: str
    """For whom the embeddings are: everybody at a store, or the one consumer."""
    model: bytes
    options: tuple[bytes, ...]
    """Processor options as the request has them, and whose request it is where encoders are told."""
    kind: str
    digest: int
    """64 bits of hash of the item."""


class Underway:
    """An item that is with an encoder. Whoever wants it waits for it by `Encodings.wait`."""

    __slots__ = ("key", "part", "task", "until", "waiting")

    def __init__(self, key: ItemKey, part: Part, task: asyncio.Task[Encoding], until: float) -> None:
        self.key = key
        self.part = part
        self.task = task
        self.until = until
        """When the time of the request that started it is over (`monotonic()`)."""
        self.waiting = 0


class _Remembered(NamedTuple):
    part: Part
    encoding: Encoding
    size: int
    expires_at: float


class Encodings:
    """See the module. Times are `monotonic()`."""

    __slots__ = (
        "_changes",
        "_loop",
        "_remembered",
        "_reuse_bytes",
        "_reuse_seconds",
        "_size",
        "_stores",
        "_underway",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, *, reuse_seconds: float, reuse_bytes: int) -> None:
        """Remember items for `reuse_seconds` (0: not at all), `reuse_bytes` of them at most."""
        self._loop = loop
        self._reuse_seconds = reuse_seconds
        self._reuse_bytes = reuse_bytes
        self._underway: dict[ItemKey, Underway] = {}
        self._remembered: dict[ItemKey, _Remembered] = {}
        """The oldest, which expires first, in front."""
        self._size = 0
        self._changes = 0
        self._stores: dict[str, frozenset[object]] = {}

    def use(self, *, reuse_seconds: float, reuse_bytes: int) -> None:
        """These limits hold from now on; what is remembered for longer than they allow is forgotten."""
        if reuse_seconds < self._reuse_seconds:
            self.forget(list(self._remembered))
        self._reuse_seconds = reuse_seconds
        self._reuse_bytes = reuse_bytes
        self._keep_within()

    # -- items with an encoder

    def underway(self, key: ItemKey, part: Part) -> Underway | None:
        """The leg that encodes this very item now, or None."""
        leg = self._underway.get(key)
        return leg if leg is not None and leg.part == part else None

    def start(
        self, key: ItemKey, part: Part, encode: Coroutine[Any, Any, Encoding], *, until: float, reusable: bool
    ) -> Underway:
        """Begin to encode an item that is not under way; the caller waits for it at once.

        The work belongs to nobody's request: it goes on until it is done or nobody waits any more. `until` is the end
        of its time; `reusable` items are remembered when they are encoded.
        """
        leg = Underway(key, part, self._loop.create_task(encode), until)
        # Where another item under way has the same hash, this one is nobody else's business.
        self._underway.setdefault(key, leg)
        changes = self._changes

        def over(task: asyncio.Task[Encoding]) -> None:
            self._leave(leg)
            # An exception belongs to those who wait; where nobody does any more, nobody is to be told.
            if not task.cancelled() and task.exception() is None and reusable and self._changes == changes:
                self._remember(key, part, task.result())

        leg.task.add_done_callback(over)
        return leg

    async def wait(self, leg: Underway) -> Encoding:
        """The leg's result, or its exception. When the last one that waits is cancelled, so is the leg, and it is over
        before this returns."""
        leg.waiting += 1
        try:
            return await asyncio.shield(leg.task)
        finally:
            leg.waiting -= 1
            if not leg.waiting and not leg.task.done():
                self._leave(leg)
                leg.task.cancel()
                await asyncio.wait((leg.task,))

    def _leave(self, leg: Underway) -> None:
        if self._underway.get(leg.key) is leg:
            del self._underway[leg.key]

    # -- items in a store

    def known(self, key: ItemKey, part: Part) -> Encoding | None:
        """What was said of this very item a moment ago, if its store surely still holds the embeddings."""
        found = self._remembered.get(key)
        if found is None or found.expires_at <= self._loop.time() or found.part != part:
            return None
        return found.encoding

    def _remember(self, key: ItemKey, part: Part, encoding: Encoding) -> None:
        self._drop(key)
        size = _ITEM_BYTES + sum(map(len, key.options)) + sum(len(memoryview(raw)) for raw in part.values())
        if not self._reuse_seconds or size > self._reuse_bytes:
            return
        # A part is a view of the whole request: a copy lets the rest of it go.
        copied = {name: raw.copy() for name, raw in part.items()}
        self._size += size
        self._remembered[key] = _Remembered(copied, encoding, size, self._loop.time() + self._reuse_seconds)
        self._keep_within()

    def _keep_within(self) -> None:
        while self._size > self._reuse_bytes:
            self._drop(next(iter(self._remembered)))

    def _drop(self, key: ItemKey) -> None:
        found = self._remembered.pop(key, None)
        if found is not None:
            self._size -= found.size

    def forget(self, keys: Iterable[ItemKey]) -> None:
        """The embeddings of these may be lost."""
        self._changes += 1
        for key in keys:
            self._drop(key)

    def fleet_changed(self, instances: Iterable[Instance]) -> None:
        """Forget what stores hold whose instances are not the same any more."""
        stores: dict[str, set[object]] = {}
        for instance in instances:
            transfer = instance.ec
            if transfer is not None and transfer.dialect is ECDialect.STORE and transfer.store is not None:
                stores.setdefault(transfer.store, set()).add((instance.name, instance.state, instance.endpoints))
        found = {store: frozenset(members) for store, members in stores.items()}
        same = {store for store, members in found.items() if self._stores.get(store) == members}
        if len(same) != len(found) or len(found) != len(self._stores):
            self._stores = found
            self.forget([key for key in self._remembered if key.scope not in same])

    def close_expired(self) -> None:
        """Let go of what nobody may use any more."""
        now = self._loop.time()
        while self._remembered:
            key, oldest = next(iter(self._remembered.items()))
            if oldest.expires_at > now:
                return
            self._drop(key)

    @property
    def held(self) -> tuple[int, int, int]:
        """Items under way, items remembered, bytes of these."""
        return len(self._underway), len(self._remembered), self._size
