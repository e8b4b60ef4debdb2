"""What the workers say when they are asked why requests go where they go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pymotor.coordinator.control import ExplainReply


class ExplainInquiry:
    """One question to some workers, and what they have said: done when each has answered or ended."""

    def __init__(self, number: int, columns: Iterable[int]) -> None:
        """`columns` are the ledger columns of the workers that are asked under `number`."""
        self.number = number
        self.replies: dict[int, ExplainReply] = {}
        """By the worker's column."""
        self._missing = set(columns)
        self._done = asyncio.Event()
        self.settle(-1)

    def settle(self, column: int) -> None:
        """Nothing more is to be awaited from this worker."""
        self._missing.discard(column)
        if not self._missing:
            self._done.set()

    async def done(self, deadline: float) -> None:
        """Return when all have answered, or after `deadline` seconds."""
        try:
            await asyncio.wait_for(self._done.wait(), deadline)
        except asyncio.TimeoutError:
            pass  # those that have answered are enough


class WorkerExplanations:
    """The questions that are open."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, ExplainInquiry] = {}

    @contextmanager
    def inquiry(self, columns: Iterable[int]) -> Iterator[ExplainInquiry]:
        """A new question to the workers of `columns`."""
        inquiry = ExplainInquiry(next(self._numbers), columns)
        self._open[inquiry.number] = inquiry
        try:
            yield inquiry
        finally:
            del self._open[inquiry.number]

    def report(self, column: int, reply: ExplainReply) -> None:
        """A worker has answered; it may be late."""
        inquiry = self._open.get(reply.number)
        if inquiry is not None:
            inquiry.replies[column] = reply
            inquiry.settle(column)

    def retire(self, column: int) -> None:
        """The worker of this column has ended."""
        for inquiry in self._open.values():
            inquiry.settle(column)
