"""Where a batch of events stands in its publisher's sequence.

Engines number batches from 0 and begin anew when they start again. A smaller number than the last is a restart, a
larger one than the next means that batches are missing. What is the same batch once more is told by its bytes, which
begin with the time it was made at.
"""

from __future__ import annotations

from enum import Enum

import xxhash


class Place(Enum):
    """Of a batch, after those that were applied."""

    NEXT = "next"
    REPEATED = "repeated"
    MISSING_BEFORE = "missing before"
    RESTARTED = "restarted"


class BatchOrder:
    """The newest batch that was applied, or could not be read, if any was since the engine's blocks were last
    forgotten."""

    def __init__(self) -> None:
        self.last: int | None = None
        """Its number."""
        self._digest = 0

    def place(self, number: int, payload: bytes) -> Place:
        """Where a batch stands; the first one of all is the next."""
        if self.last is None or number == self.last + 1:
            return Place.NEXT
        if number > self.last:
            return Place.MISSING_BEFORE
        return Place.REPEATED if self.is_last(number, payload) else Place.RESTARTED

    def is_last(self, number: int, payload: bytes) -> bool:
        """Whether this is the batch that was applied last."""
        return number == self.last and xxhash.xxh3_64_intdigest(payload) == self._digest

    def applied(self, number: int, payload: bytes) -> None:
        """It is the newest one now."""
        self.last = number
        self._digest = xxhash.xxh3_64_intdigest(payload)

    def forget(self) -> None:
        """Nothing is known any more."""
        self.last = None
