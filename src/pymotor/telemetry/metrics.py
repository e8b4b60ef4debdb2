"""Counters and histograms cheap enough for every request, and their Prometheus text.

A registry belongs to one process. Processes send each other `MetricsDump`s; `merge` adds them up and `render`
writes the Prometheus text format 0.0.4.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import msgspec

SECONDS_BUCKETS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
)  # fmt: skip


class CounterChild:
    """A counter with its labels filled in; add to `value` directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class HistogramChild:
    """A histogram with its labels filled in."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self._bounds, value)] += 1
        self.total += value


class Counter:
    """A family of counters, or of gauges, one for each combination of labels."""

    __slots__ = ("_children", "help", "kind", "labels", "name")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], kind: str = "counter") -> None:
        self.name = name
        self.kind = kind
        self.help = help_text
        self.labels = labels
        self._children: dict[tuple[str, ...], CounterChild] = {}

    def child(self, *values: str) -> CounterChild:
        """The counter of these label values; keep it where it is used often."""
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = CounterChild()
        return found


class Histogram:
    """A family of histograms, one for each combination of labels."""

    __slots__ = ("_children", "bounds", "help", "labels", "name")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self.bounds = tuple(bounds)
        self._children: dict[tuple[str, ...], HistogramChild] = {}

    def child(self, *values: str) -> HistogramChild:
        """The histogram of these label values; keep it where it is used often."""
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = HistogramChild(self.bounds)
        return found


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

    def __init__(self) -> None:
        self._counters: list[Counter] = []
        self._histograms: list[Histogram] = []

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        """A new counter family; the name ends in `_total`."""
        counter = Counter(name, help_text, labels)
        self._counters.append(counter)
        return counter

    def gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        """A new family of figures that also fall; those of several processes are added up."""
        gauge = Counter(name, help_text, labels, "gauge")
        self._counters.append(gauge)
        return gauge

    def histogram(
        self, name: str, help_text: str, labels: tuple[str, ...] = (), bounds: Sequence[float] = SECONDS_BUCKETS
    ) -> Histogram:
        """A new histogram family with upper bounds `bounds`, in seconds unless the name says otherwise."""
        histogram = Histogram(name, help_text, labels, bounds)
        self._histograms.append(histogram)
        return histogram

    def dump(self) -> MetricsDump:
        """The figures as they are now."""
        families = [
            Family(
                name=counter.name,
                kind=counter.kind,
                help=counter.help,
                labels=counter.labels,
                samples=tuple(Sample(labels, child.value) for labels, child in counter._children.items()),
            )
            for counter in self._counters
        ]
        families += [
            Family(
                name=histogram.name,
                kind="histogram",
                help=histogram.help,
                labels=histogram.labels,
                bounds=histogram.bounds,
                samples=tuple(
                    Sample(labels, child.total, tuple(child.counts)) for labels, child in histogram._children.items()
                ),
            )
            for histogram in self._histograms
        ]
        return MetricsDump(tuple(families))


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
