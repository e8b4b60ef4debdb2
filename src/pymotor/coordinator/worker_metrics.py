"""The workers' figures added up, so that no counter goes backwards when a worker dies or hangs.

Workers count in memory that the supervisor reads (`telemetry.shared_figures`): nobody is asked, and what a worker
counted before it died is still there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pymotor.telemetry import shared_figures
from pymotor.telemetry.metrics import MetricsDump, merge
from pymotor.telemetry.shared_figures import FiguresReader


class WorkerMetrics:
    """The figures of each living worker and the sum of those that ended."""

    def __init__(self) -> None:
        self._readers: dict[int, FiguresReader] = {}
        self._retired = MetricsDump()

    @contextlib.contextmanager
    def counting(self, column: int) -> Iterator[int]:
        """The life of the worker of a ledger column: gives the descriptor of the memory in which it is to count. Its
        successor counts from zero, what it counted stays in the sum, its gauges are gone with it."""
        with shared_figures.memory() as descriptor:
            reader = self._readers[column] = FiguresReader(descriptor)
            try:
                yield descriptor
            finally:
                del self._readers[column]
                counted = tuple(family for family in reader.dump().families if family.kind != "gauge")
                self._retired = merge([self._retired, MetricsDump(counted)])
                reader.close()

    def total(self, names: frozenset[str] | None = None) -> MetricsDump:
        """The sum over all workers there were: of all figures, or of those with these names only."""
        retired = self._retired
        if names is not None:
            retired = MetricsDump(tuple(family for family in retired.families if family.name in names))
        return merge([retired, *(reader.dump(names) for reader in self._readers.values())])
