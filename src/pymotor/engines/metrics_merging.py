"""Engines' Prometheus texts as figures, and the figures of several engines as one, by what they mean.

Counters are added up, gauges by `metrics_meaning`, of histograms the buckets that all have: cumulative buckets are
exact at each bound that they share. Quantiles of summaries cannot be merged and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isnan

import msgspec
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pymotor.engines.metrics_meaning import CUMULATIVE, Meaning, gauge_meaning

Labels = tuple[tuple[str, str], ...]
"""Names and values, by name."""
Key = tuple[str, Labels]
"""Name and labels of a series."""
Relabel = Callable[[Labels], Labels]


class EngineFamily(msgspec.Struct):
    """A metric with its series; the name of a counter is without `_total`."""

    name: str
    kind: str
    help: str
    series: dict[Key, float] = {}

    @property
    def cumulative(self) -> bool:
        """Whether its figures only grow while the engine lives."""
        return self.kind in CUMULATIVE


Families = dict[str, EngineFamily]


def read_families(text: str) -> Families:
    """The metrics in a Prometheus text. Raises `ValueError` when it is none."""
    found: Families = {}
    for metric in text_string_to_metric_families(text):
        family = found.setdefault(metric.name, EngineFamily(metric.name, metric.type, metric.documentation))
        counter = metric.type == "counter"
        for sample in metric.samples:
            if isnan(sample.value):
                continue
            name = f"{metric.name}_total" if counter else sample.name
            family.series[name, tuple(sorted(sample.labels.items()))] = float(sample.value)
    return {name: family for name, family in found.items() if family.series}


def merge_families(parts: Iterable[tuple[Families, Relabel]]) -> Families:
    """The figures of several engines, or engine cores, as one: series that are equal after relabelling are merged. Of
    a name that is used for different types, the first is taken."""
    gathered: dict[str, tuple[EngineFamily, list[dict[Key, list[float]]]]] = {}
    for families, relabel in parts:
        for name, family in families.items():
            merged, contributions = gathered.setdefault(name, (EngineFamily(name, family.kind, family.help), []))
            if merged.kind != family.kind:
                continue
            series: dict[Key, list[float]] = {}
            for (sample, labels), value in family.series.items():
                series.setdefault((sample, relabel(labels)), []).append(value)
            contributions.append(series)
    found: Families = {}
    for name, (merged, contributions) in gathered.items():
        merged.series = dict(_merged(merged, contributions))
        if merged.series:
            found[name] = merged
    return found


def _merged(family: EngineFamily, contributions: Sequence[Mapping[Key, list[float]]]) -> Iterator[tuple[Key, float]]:
    if family.kind == "histogram":
        yield from _histogram(family.name, contributions)
        return
    meaning = Meaning.SUM if family.cumulative or family.kind != "gauge" else gauge_meaning(family.name)
    if meaning is Meaning.NONE:
        return
    values: dict[Key, list[float]] = {}
    for series in contributions:
        for key, some in series.items():
            if family.kind != "summary" or key[0] != family.name:
                values.setdefault(key, []).extend(some)
    for key, some in values.items():
        yield key, _figure(meaning, some)


def _figure(meaning: Meaning, values: list[float]) -> float:
    if meaning is Meaning.INFO:
        return values[0]
    if meaning is Meaning.MOST:
        return max(values)
    if meaning is Meaning.LEAST:
        return min(values)
    return sum(values) / len(values) if meaning is Meaning.MEAN else sum(values)


def _histogram(name: str, contributions: Sequence[Mapping[Key, list[float]]]) -> Iterator[tuple[Key, float]]:
    """Buckets at the bounds that all contributions to a series have."""
    plain: dict[Labels, dict[str, float]] = {}
    buckets: dict[Labels, dict[float, float]] = {}
    written: dict[float, str] = {}
    for series in contributions:
        own: dict[Labels, dict[float, float]] = {}
        for (sample, labels), values in series.items():
            if sample != f"{name}_bucket":
                totals = plain.setdefault(labels, {})
                totals[sample] = totals.get(sample, 0.0) + sum(values)
                continue
            upper = dict(labels)["le"]
            bound = float(upper)
            written.setdefault(bound, upper)
            rest = tuple(label for label in labels if label[0] != "le")
            own.setdefault(rest, {})[bound] = sum(values)
        for rest, found in own.items():
            so_far = buckets.get(rest)
            buckets[rest] = (
                found if so_far is None else {le: so_far[le] + count for le, count in found.items() if le in so_far}
            )
    for rest, counts in buckets.items():
        for bound in sorted(counts):
            yield (f"{name}_bucket", tuple(sorted((*rest, ("le", written[bound]))))), counts[bound]
        for sample, total in plain.get(rest, {}).items():
            yield (sample, rest), total


class _Given(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families.values():
            metric = Metric(family.name, family.help, family.kind)
            for (name, labels), value in family.series.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def cumulative(families: Families) -> Families:
    """Those whose figures only grow."""
    return {name: family for name, family in families.items() if family.cumulative}


def unchanged(labels: Labels) -> Labels:
    """A `Relabel` that leaves labels as they are."""
    return labels


def write_families(families: Families) -> str:
    """The Prometheus text format 0.0.4."""
    return generate_latest(_Given(families)).decode()
