"""Traces that cannot be sent in time: dropped, each counted once by why, and nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from pymotor.coordinator.tracing.exporting import QUEUED, TraceExport, traces_url
from pymotor.coordinator.tracing.trace_context import TraceContext
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.coordinator.trail import Trail
from pymotor.telemetry.metrics import Registry

NAMES = ("exported", "export_failed", "queue_full", "ended")


class Slow(SpanExporter):
    """Takes spans, and lets nobody go before `going_on` is set."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.going_on = threading.Event()
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        self.asked.set()
        self.going_on.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@pytest.fixture
def exporter() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.going_on.set()


def finished() -> FinishedRequest:
    trace = TraceContext(b"1" * 32, b"2" * 16, sampled=True)
    attributes = {"http.request.method": "POST", "http.route": "/", "http.response.status_code": 200}
    now = time.monotonic()
    return FinishedRequest(Trail(trace), trace, now, now, 0.0, dict(attributes))


def outcomes(export: TraceExport) -> dict[str, float]:
    counter = export.outcomes
    return {name: counter.child(name).value for name in NAMES if counter.child(name).value}


def test_all_is_sent_at_the_end(exporter: Slow) -> None:
    export = TraceExport(exporter, Resource({}), Registry(), "nowhere", delay=3600.0)
    exporter.going_on.set()
    for _ in range(300):
        export.put(finished())
    export.close()
    assert len(exporter.spans) == 300
    assert outcomes(export) == {"exported": 300}


def test_the_end_does_not_wait_for_a_collector_that_hangs(exporter: Slow) -> None:
    export = TraceExport(exporter, Resource({}), Registry(), "nowhere", delay=0.0)
    export.put(finished())
    assert exporter.asked.wait(60)
    for _ in range(7):
        export.put(finished())
    export.close()
    assert outcomes(export) == {"ended": 8}
    # What it is told afterwards does not count twice.
    exporter.going_on.set()
    export._thread.join(60)
    assert outcomes(export) == {"ended": 8}
    assert len(exporter.spans) == 1


def test_a_batch_that_cannot_be_sent_does_not_end_the_thread(exporter: Slow) -> None:
    export = TraceExport(exporter, Resource({}), Registry(), "nowhere", delay=0.0)
    exporter.going_on.set()
    broken = finished()
    export.put(broken._replace(trace=TraceContext(b"no digits", b"2" * 16, sampled=True)))
    ends = time.monotonic() + 60
    while outcomes(export) != {"export_failed": 1}:
        assert time.monotonic() < ends
        time.sleep(0.01)
    export.put(finished())
    export.close()
    assert outcomes(export) == {"export_failed": 1, "exported": 1}


def test_what_finds_no_room_is_dropped(exporter: Slow) -> None:
    export = TraceExport(exporter, Resource({}), Registry(), "nowhere", delay=0.0)
    export.put(finished())
    assert exporter.asked.wait(60)
    for _ in range(QUEUED + 5):
        export.put(finished())
    assert outcomes(export) == {"queue_full": 5}
    exporter.going_on.set()
    export.close()
    assert outcomes(export) == {"queue_full": 5, "exported": QUEUED + 1}


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://[::1]/otlp/v1/traces", "https://[::1]/otlp/v1/traces"),
    ],
)
def test_the_path_may_be_left_out(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url
