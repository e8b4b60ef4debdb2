"""A batch of events that is applied in parts, so that other publishers and questions have their turn in between."""

from __future__ import annotations

from collections import deque

from pymotor.kv_conductor.events import EventBatch, EventFormatError, decode_batch

_EVENTS_AT_A_TIME = 256


class OtherRankError(EventFormatError):
    """A batch of another data parallel rank than the one that should publish there."""


class BegunBatch:
    """The one that a publisher's events are taken from now, if any."""

    def __init__(self, rank: int | None) -> None:
        """`rank`: what its batches name, if they name one; None: that is not known."""
        self.message: tuple[int, bytes] | None = None
        """Its number and payload; None: none is begun."""
        self._rank = rank
        self._parts: deque[EventBatch] = deque()

    def next_part(self, number: int, payload: bytes) -> EventBatch:
        """The next events of this batch, which is begun if none was; `more` says whether it is over. Raises
        `EventFormatError`, also `OtherRankError`; it is begun then, too."""
        if self.message is None:
            self.message = number, payload
            batch = decode_batch(payload)
            if self._rank is not None and batch.data_parallel_rank not in (None, self._rank):
                raise OtherRankError(f"batch {number} is of rank {batch.data_parallel_rank}: its port is another's")
            self._parts.extend(batch.parts(_EVENTS_AT_A_TIME))
        return self._parts.popleft()

    def more(self) -> bool:
        """Whether events are left of it; if not, none is begun any more."""
        if self._parts:
            return True
        self.message = None
        return False

    def forget(self) -> None:
        """What is left of it is not applied."""
        self.message = None
        self._parts.clear()
