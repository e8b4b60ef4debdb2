"""Batches that an engine replayed and that wait to be applied: of one asking, and how many bytes of all together.

Engines send a whole replay in one go, and drop what their queue has no room for while nobody reads: so much may wait
here. Any number of engines may replay at a time, though, and then each has at least what a live publisher has.
"""

from __future__ import annotations

from collections import deque

_MOST_OF_ALL = 256 * 1024 * 1024
_MOST_OF_ONE = 32 * 1024 * 1024
_LEAST_OF_ONE = 256 * 1024
"""Each may have as much, whatever the others have."""
_BATCH_BYTES = 256
"""What Python takes for a batch, besides its payload; also of one without any."""


class ReplayRoom:
    """What all of them may have waiting."""

    def __init__(self, most: int = _MOST_OF_ALL) -> None:
        """`most`: bytes; beyond that nobody reads on who has its least already."""
        self.most = most
        self.taken = 0


class WaitingBatches:
    """Those of one asking, in their order; `clear` gives their room back."""

    def __init__(self, room: ReplayRoom) -> None:
        self._room = room
        self._batches: deque[tuple[int | None, bytes]] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def first(self) -> tuple[int | None, bytes]:
        """Number, None for the end of the replay, and payload of the one that is to be applied next."""
        return self._batches[0]

    @property
    def too_many(self) -> bool:
        """Whether no more should be read."""
        return self._bytes > _MOST_OF_ONE or (self._bytes > _LEAST_OF_ONE and self._room.taken > self._room.most)

    @property
    def few(self) -> bool:
        """Whether reading may go on after there were too many."""
        if self._room.taken > self._room.most:
            return self._bytes < _LEAST_OF_ONE // 2
        return self._bytes < _MOST_OF_ONE // 2

    def put(self, number: int | None, payload: bytes) -> None:
        """One more has come."""
        self._batches.append((number, payload))
        self._count(_BATCH_BYTES + len(payload))

    def take_off(self) -> None:
        """The first one was applied."""
        _, payload = self._batches.popleft()
        self._count(-_BATCH_BYTES - len(payload))

    def clear(self) -> None:
        """None is applied any more."""
        self._batches.clear()
        self._count(-self._bytes)

    def _count(self, more: int) -> None:
        self._bytes += more
        self._room.taken += more
