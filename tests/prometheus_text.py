"""Is a Prometheus text right? The rules of `promtool check metrics`, and those of the strict OpenMetrics parser.

Rules of promtool (its `promlint`), by its names: Help, Counter (`_total`), HistogramSummaryReserved, MetricUnits (base
units), MetricTypeInName, ReservedChars (no colon), CamelCase, UnitAbbreviations, DuplicateMetric. The last four of a
name's form cannot hold for engines' names (`vllm:…`), which nobody renames.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly_parsed
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_NOT_BASE_UNITS = re.compile(
    r"(^|_)(milliseconds|microseconds|nanoseconds|minutes|hours|days|weeks|percent|kilobytes|megabytes|gigabytes|bits)(_|$)"
)
_ABBREVIATIONS = re.compile(r"(^|_)(s|ms|us|ns|sec|b|kb|mb|gb|tb|pb|m|h|d)(_|$)")
_TYPE_WORDS = re.compile(r"(^|_)(counter|gauge|histogram|summary)(_|$)")
_SUFFIXES = ("_bucket", "_count", "_sum")


class _Parsed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def problems_of(text: str) -> list[str]:
    """All that is wrong with it. Raises `ValueError` for what is no Prometheus text at all."""
    families = list(text_string_to_metric_families(text))
    return [*_form(text), *(problem for family in families for problem in _linted(family)), *_strict(families)]


def _form(text: str) -> Iterator[str]:
    """HELP and TYPE once, before a family's samples, and all of these together; no series twice."""
    heads = Counter(tuple(line.split(" ", 3)[:3]) for line in text.splitlines() if line.startswith("#"))
    yield from (f"{' '.join(head)} {times} times" for head, times in heads.items() if times > 1)
    series = Counter(line.rsplit(" ", 1)[0] for line in text.splitlines() if line and not line.startswith("#"))
    yield from (f"series {one} {times} times" for one, times in series.items() if times > 1)
    helped = {name for _, kind, name in heads if kind == "HELP"}
    typed = {name for _, kind, name in heads if kind == "TYPE"}
    yield from (f"{name} has no HELP or no TYPE" for name in helped ^ typed)
    if text and not text.endswith("\n"):
        yield "the last line has no end"


def _linted(family: Metric) -> Iterator[str]:
    name, kind = family.name, family.type
    if not family.documentation:
        yield f"{name}: no help"
    if kind == "unknown":
        yield f"{name}: no type"
    if kind == "counter":
        yield from (
            f"{sample.name}: a counter ends in _total" for sample in family.samples if sample.name != f"{name}_total"
        )
    elif name.endswith("_total"):
        yield f"{name}: only a counter ends in _total"
    if kind not in ("histogram", "summary") and name.endswith(_SUFFIXES):
        yield f"{name}: the ending is a histogram's"
    for sample in family.samples:
        if kind != "histogram" and "le" in sample.labels:
            yield f"{sample.name}: le is a histogram's label"
        if kind != "summary" and "quantile" in sample.labels:
            yield f"{sample.name}: quantile is a summary's label"
        yield from (f"{sample.name}: label {label} in camel case" for label in sample.labels if label != label.lower())
    if ":" in name:
        return
    if name != name.lower():
        yield f"{name}: camel case"
    for rule, words in ((_NOT_BASE_UNITS, "not a base unit"), (_ABBREVIATIONS, "an abbreviated unit"),
                        (_TYPE_WORDS, "its type in its name")):  # fmt: skip
        if rule.search(name):
            yield f"{name}: {words}"


def _strict(families: list[Metric]) -> Iterator[str]:
    """The same figures as OpenMetrics: its parser wants histograms that add up and no series twice."""
    for family in families:
        # The writer of OpenMetrics replaces the colon in some places only.
        own = Metric(family.name.replace(":", "_"), family.documentation, family.type)
        for sample in family.samples:
            own.add_sample(sample.name.replace(":", "_"), sample.labels, sample.value)
        try:
            list(strictly_parsed(generate_latest(_Parsed([own])).decode()))
        except ValueError as error:
            yield f"{family.name}: {error}"
