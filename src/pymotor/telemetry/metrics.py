"""Counters and histograms cheap enough for every request, and their Prometheus text.

A registry belongs to one process, or counts in memory that another one reads (`shared_figures`). `merge` adds up the
`MetricsDump`s of several and `render` writes the Prometheus text format 0.0.4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

SECONDS_BUCKETS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
)  # fmt: skip


class Cells(Protocol):
    """Where the figures of one combination of labels are: a list, or a piece of memory that another process reads."""

    def __getitem__(self, position: int, /) -> float: ...

    def __setitem__(self, position: int, value: float, /) -> None: ...


class CounterChild:
    """A counter or gauge with its labels filled in."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Cells | None = None) -> None:
        """`cells`: one cell."""
        self._cells: Cells = [0.0] if cells is None else cells

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more."""
        self._cells[0] += amount

    def set(self, value: float) -> None:
        """It is now that much: for gauges."""
        self._cells[0] = value

    @property
    def value(self) -> float:
        """What was counted so far."""
        return self._cells[0]


class HistogramChild:
    """A histogram with its labels filled in."""

    __slots__ = ("_bounds", "_cells")

    def __init__(self, bounds: Sequence[float], cells: Cells | None = None) -> None:
        """`cells`: one for each bound, one for what is above them all, one for the total."""
        self._bounds = bounds
        self._cells: Cells = [0.0] * (len(bounds) + 2) if cells is None else cells

    def observe(self, value: float) -> None:
        """Count one value."""
        cells = self._cells
        cells[bisect_left(self._bounds, value)] += 1.0
        cells[-1] += value

    @property
    def counts(self) -> tuple[int, ...]:
        """Values between each bound and the one before it."""
        return tuple(int(self._cells[number]) for number in range(len(self._bounds) + 1))

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self._cells[-1]


class Memory(Protocol):
    """Hands out cells; `shared_figures` has the one that another process can read."""

    def declare(self, family: Family) -> int:
        """A new family; returns its number."""

    def cells(self, family: int, labels: tuple[str, ...], count: int) -> Cells:
        """`count` zeroed cells for one combination of labels."""


class _OwnMemory:
    """Lists of this process."""

    def declare(self, family: Family) -> int:  # noqa: ARG002  nobody else is told
        return 0

    def cells(self, family: int, labels: tuple[str, ...], count: int) -> Cells:  # noqa: ARG002
        return [0.0] * count


class Counter:
    """A family of counters, or of gauges, one for each combination of labels."""

    __slots__ = ("_children", "_memory", "_number", "family")

    def __init__(self, family: Family, memory: Memory) -> None:
        self.family = family
        self._memory = memory
        self._number = memory.declare(family)
        self._children: dict[tuple[str, ...], CounterChild] = {}

    def child(self, *values: str) -> CounterChild:
        """The counter of these label values; keep it where it is used often."""
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = CounterChild(self._memory.cells(self._number, values, 1))
        return found

    def samples(self) -> tuple[Sample, ...]:
        """The figures as they are now."""
        return tuple(Sample(labels, child.value) for labels, child in self._children.items())


class Histogram:
    """A family of histograms, one for each combination of labels."""

    __slots__ = ("_children", "_memory", "_number", "family")

    def __init__(self, family: Family, memory: Memory) -> None:
        self.family = family
        self._memory = memory
        self._number = memory.declare(family)
        self._children: dict[tuple[str, ...], HistogramChild] = {}

    def child(self, *values: str) -> HistogramChild:
        """The histogram of these label values; keep it where it is used often."""
        found = self._children.get(values)
        if found is None:
            bounds = self.family.bounds
            cells = self._memory.cells(self._number, values, len(bounds) + 2)
            found = self._children[values] = HistogramChild(bounds, cells)
        return found

    def samples(self) -> tuple[Sample, ...]:
        """The figures as they are now."""
        return tuple(Sample(labels, child.total, child.counts) for labels, child in self._children.items())


class Sample(msgspec.Struct, frozen=True):
    """One combination of labels: a counter's or gauge's value, or a histogram's bucket counts and total."""

    labels: tuple[str, ...]
    value: float = 0.0
    counts: tuple[int, ...] = ()


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """All samples of one metric name."""

    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    samples: tuple[Sample, ...] = ()


class MetricsDump(msgspec.Struct, frozen=True):
    """All families of one process, or of several added up."""

    families: tuple[Family, ...] = ()


class Registry:
    """The metrics of one process."""

    def __init__(self, memory: Memory | None = None) -> None:
        """`memory`: where the figures are; this process's own by default."""
        self._memory: Memory = _OwnMemory() if memory is None else memory
        self._metrics: list[Counter | Histogram] = []

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        """A new counter family; the name ends in `_total`."""
        return self._counter(Family(name=name, kind="counter", help=help_text, labels=labels))

    def gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        """A new family of figures that also fall; those of several processes are added up."""
        return self._counter(Family(name=name, kind="gauge", help=help_text, labels=labels))

    def _counter(self, family: Family) -> Counter:
        counter = Counter(family, self._memory)
        self._metrics.append(counter)
        return counter

    def histogram(
        self, name: str, help_text: str, labels: tuple[str, ...] = (), bounds: Sequence[float] = SECONDS_BUCKETS
    ) -> Histogram:
        """A new histogram family with upper bounds `bounds`, in seconds unless the name says otherwise."""
        family = Family(name=name, kind="histogram", help=help_text, labels=labels, bounds=tuple(bounds))
        histogram = Histogram(family, self._memory)
        self._metrics.append(histogram)
        return histogram

    def dump(self) -> MetricsDump:
        """The figures as they are now."""
        return MetricsDump(
            tuple(msgspec.structs.replace(metric.family, samples=metric.samples()) for metric in self._metrics)
        )


def merge(dumps: Iterable[MetricsDump]) -> MetricsDump:
    """The sum of several processes' figures."""
    families: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, ...], Sample]] = {}
    for dump in dumps:
        for family in dump.families:
            families.setdefault(family.name, family)
            samples = sums.setdefault(family.name, {})
            for sample in family.samples:
                former = samples.get(sample.labels)
                if former is not None:
                    counts = tuple(a + b for a, b in zip(former.counts, sample.counts, strict=True))
                    samples[sample.labels] = Sample(sample.labels, former.value + sample.value, counts)
                else:
                    samples[sample.labels] = sample
    return MetricsDump(
        tuple(msgspec.structs.replace(family, samples=tuple(sums[name].values())) for name, family in families.items())
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def render(dump: MetricsDump) -> str:
    """The Prometheus text format, version 0.0.4."""
    lines: list[str] = []
    for family in dump.families:
        help_text = family.help.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {family.name} {help_text}", f"# TYPE {family.name} {family.kind}"]
        for sample in family.samples:
            if family.kind != "histogram":
                lines.append(f"{family.name}{_labelled(family.labels, sample.labels)} {sample.value!r}")
                continue
            seen = 0
            for bound, count in zip((*family.bounds, float("inf")), sample.counts, strict=True):
                seen += count
                upper = "+Inf" if bound == float("inf") else f"{bound:g}"
                labels = _labelled((*family.labels, "le"), (*sample.labels, upper))
                lines.append(f"{family.name}_bucket{labels} {seen}")
            labels = _labelled(family.labels, sample.labels)
            lines += [f"{family.name}_sum{labels} {sample.value!r}", f"{family.name}_count{labels} {seen}"]
    return "\n".join(lines) + "\n" if lines else ""
