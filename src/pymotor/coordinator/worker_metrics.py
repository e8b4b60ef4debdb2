"""The workers' figures added up, so that no counter goes backwards when a worker dies or is late."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pymotor.coordinator.control import MetricsReport
from pymotor.telemetry.metrics import MetricsDump, merge


class Inquiry:
    """One round of asking: done when every worker that was asked has answered or ended."""

    def __init__(self, number: int, columns: Iterable[int]) -> None:
        """`columns` are the ledger columns of the workers that are asked under `number`."""
        self.number = number
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
            pass  # the late worker's last figures stand in for it


class WorkerMetrics:
    """The last figures of each living worker and the sum of those that ended.

    What a worker counted after its last report is lost when it dies; nothing that was reported is.
    """

    def __init__(self) -> None:
        self._last: dict[int, MetricsDump] = {}
        self._retired = MetricsDump()
        self._numbers = itertools.count(1)
        self._inquiries: dict[int, Inquiry] = {}

    @contextmanager
    def inquiry(self, columns: Iterable[int]) -> Iterator[Inquiry]:
        """A new round of asking the workers of `columns`."""
        inquiry = Inquiry(next(self._numbers), columns)
        self._inquiries[inquiry.number] = inquiry
        try:
            yield inquiry
        finally:
            del self._inquiries[inquiry.number]

    def report(self, column: int, report: MetricsReport) -> None:
        """The figures of the worker of a ledger column, from its start until now; it may come late."""
        self._last[column] = report.dump
        inquiry = self._inquiries.get(report.number)
        if inquiry is not None:
            inquiry.settle(column)

    def retire(self, column: int) -> None:
        """The worker of this column has ended: its successor counts from zero. Its gauges are gone with it."""
        for inquiry in self._inquiries.values():
            inquiry.settle(column)
        last = self._last.pop(column, None)
        if last is not None:
            counted = tuple(family for family in last.families if family.kind != "gauge")
            self._retired = merge([self._retired, MetricsDump(counted)])

    def total(self) -> MetricsDump:
        """The sum over all workers there were."""
        return merge([self._retired, *self._last.values()])
