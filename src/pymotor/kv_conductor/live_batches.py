"""Live batches of a publisher that wait to be applied; while there are too many, nothing more is read of it."""

from __future__ import annotations

from collections import deque
from typing import Protocol

MOST_BYTES = 256 * 1024


class Paused(Protocol):
    """A connection that can be held back."""

    def pause(self) -> None:
        """Read no more."""

    def resume(self) -> None:
        """Read on."""


class LiveBatches:
    """Those of one connection, in their order."""

    def __init__(self) -> None:
        self._connection: Paused | None = None
        self._batches: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._paused = False

    def __bool__(self) -> bool:
        return bool(self._batches)

    def begin(self, connection: Paused | None) -> None:
        """What comes from now on comes over this connection; nothing waits of a former one."""
        self._connection = connection
        self._batches.clear()
        self._bytes = 0
        self._paused = False

    @property
    def first(self) -> tuple[int, bytes]:
        """Number and payload of the one that is to be applied next."""
        return self._batches[0]

    def put(self, number: int, payload: bytes) -> None:
        """One more has come."""
        self._batches.append((number, payload))
        self._bytes += len(payload)
        if self._bytes > MOST_BYTES and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.pause()

    def take_off(self) -> None:
        """The first one is done with."""
        _, payload = self._batches.popleft()
        self._bytes -= len(payload)
        if self._paused and self._bytes < MOST_BYTES // 2 and self._connection is not None:
            self._paused = False
            self._connection.resume()

    def drop_until(self, last: int | None) -> None:
        """Those up to this number came by a replay, too; a number that begins again is of what comes after."""
        former = -1
        while last is not None and self._batches and former < self._batches[0][0] <= last:
            former = self._batches[0][0]
            self.take_off()
