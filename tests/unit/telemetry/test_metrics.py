"""Figures survive the way through dump, message, merge and text; Prometheus's own parser reads the text."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pymotor.telemetry.metrics import Family, MetricsDump, Registry, Sample, merge, render

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=12)
AMOUNTS = st.floats(0, 1e12, allow_nan=False)


def registry(counts: list[tuple[str, float]], values: list[tuple[str, float]], help_text: str = "Help.") -> Registry:
    """A registry that counted `counts` and observed `values`, each under its label."""
    made = Registry()
    counter = made.counter("pymotor_requests_total", help_text, ("path",))
    histogram = made.histogram("pymotor_request_seconds", help_text, ("path",), bounds=(0.001, 1, 500))
    for label, amount in counts:
        counter.child(label).add(amount)
    for label, value in values:
        histogram.child(label).observe(value)
    return made


def parsed(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@given(st.lists(st.tuples(TEXTS, AMOUNTS)), st.lists(st.tuples(TEXTS, AMOUNTS)), TEXTS)
def test_prometheus_reads_what_was_counted(
    counts: list[tuple[str, float]], values: list[tuple[str, float]], help_text: str
) -> None:
    dump = registry(counts, values, help_text).dump()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(dump), type=MetricsDump) == dump
    seen = parsed(render(dump))
    for label in {label for label, _ in counts}:
        expected = 0.0
        for other, amount in counts:
            expected += amount if other == label else 0.0
        assert seen["pymotor_requests_total", label] == expected
    for label in {label for label, _ in values}:
        own = [value for other, value in values if other == label]
        assert seen["pymotor_request_seconds_count", label] == len(own)
        assert seen["pymotor_request_seconds_sum", label] == pytest.approx(math.fsum(own))
        for bound, text in ((0.001, "0.001"), (1, "1"), (500, "500"), (math.inf, "+Inf")):
            at_most = sum(value <= bound for value in own)
            assert seen["pymotor_request_seconds_bucket", text, label] == at_most


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**9))), max_size=5))
def test_merging_processes_is_as_if_one_had_counted_all(processes: list[list[tuple[str, int]]]) -> None:
    apart = merge(registry(counts, counts).dump() for counts in processes)
    together = registry(*[[pair for counts in processes for pair in counts]] * 2).dump()
    assert parsed(render(apart)) == parsed(render(together))


def test_families_that_only_one_process_has_are_kept() -> None:
    gauge = Family(name="pymotor_workers", kind="gauge", help="Workers.", labels=(), samples=(Sample((), 2.0),))
    merged = merge([registry([("a", 1.5)], []).dump(), MetricsDump((gauge,))])
    assert parsed(render(merged)) == {("pymotor_requests_total", "a"): 1.5, ("pymotor_workers",): 2.0}


def test_every_type_is_named() -> None:
    gauge = Family(name="pymotor_workers", kind="gauge", help="Workers.", labels=(), samples=(Sample((), 2.0),))
    text = render(merge([registry([], []).dump(), MetricsDump((gauge,))]))
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert kinds == {
        "pymotor_requests": "counter",
        "pymotor_request_seconds": "histogram",
        "pymotor_workers": "gauge",
    }


def test_nothing_renders_as_nothing() -> None:
    assert render(merge([])) == ""
    assert render(MetricsDump()) == ""
