"""Traces that cannot be sent in time: dropped, each counted once by why, and nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pymotor.coordinator.tracing.collector_client import NotTaken
from pymotor.coordinator.tracing.exporting import QUEUED, TraceExport
from pymotor.coordinator.tracing.partial_success import PartialSuccess
from pymotor.coordinator.tracing.trace_context import TraceContext
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.coordinator.trail import Trail
from pymotor.telemetry.metrics import Registry

NAMES = ("exported", "export_failed", "queue_full", "ended")


class Slow:
    """Takes spans, and lets nobody go before `going_on` is set; what it answers is in `answers`, nothing where that is
    empty."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.going_on = threading.Event()
        self.spans: list[Span] = []
        self.answers: list[PartialSuccess | BaseException] = []
        self.closed = threading.Event()

    def send(self, request: bytes) -> PartialSuccess | None:
        for of_resource in ExportTraceServiceRequest.FromString(request).resource_spans:
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        self.asked.set()
        self.going_on.wait()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def give_up(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def sender() -> Iterator[Slow]:
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


def test_all_is_sent_at_the_end(sender: Slow) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=3600.0)
    sender.going_on.set()
    for _ in range(300):
        export.put(finished())
    export.close()
    assert len(sender.spans) == 300
    assert outcomes(export) == {"exported": 300}


def test_the_end_does_not_wait_for_a_collector_that_hangs(sender: Slow) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=0.0)
    export.put(finished())
    assert sender.asked.wait(60)
    for _ in range(7):
        export.put(finished())
    export.close()
    assert outcomes(export) == {"ended": 8}
    # What it is told afterwards does not count twice.
    sender.going_on.set()
    export._thread.join(60)
    assert outcomes(export) == {"ended": 8}
    assert len(sender.spans) == 1


def test_a_trace_that_cannot_be_encoded_takes_no_other_with_it(sender: Slow, caplog: pytest.LogCaptureFixture) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=3600.0)
    sender.going_on.set()
    broken = finished()._replace(trace=TraceContext(b"no digits", b"2" * 16, sampled=True))
    for one in (finished(), broken, finished(), broken._replace(attributes={})):
        export.put(one)
    export.close()
    assert sender.closed.wait(60)
    assert len(sender.spans) == 2
    assert outcomes(export) == {"export_failed": 2, "exported": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "a trace cannot be made into spans, it is dropped; this is told once"
    ]


def test_a_batch_of_nothing_that_can_be_encoded_is_not_sent(sender: Slow) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=3600.0)
    sender.going_on.set()
    export.put(finished()._replace(attributes={}))
    export.close()
    assert sender.closed.wait(60)
    assert not sender.asked.is_set()
    assert outcomes(export) == {"export_failed": 1}


def test_a_mistake_in_sending_does_not_end_the_thread(sender: Slow) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=0.0)
    sender.going_on.set()
    sender.answers = [KeyError("a mistake")]
    export.put(finished())
    assert sender.asked.wait(60)
    sender.asked.clear()
    export.put(finished())
    export.close()
    assert sender.closed.wait(60)
    assert outcomes(export) == {"export_failed": 1, "exported": 1}


@pytest.mark.parametrize("delay", [1e300, float("inf")])
def test_a_delay_that_no_clock_has_does_not_end_the_thread(sender: Slow, delay: float) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=delay)
    sender.going_on.set()
    export.put(finished())
    export.close()
    assert sender.closed.wait(60)
    assert outcomes(export) == {"exported": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_connection_ends_however_the_thread_does(sender: Slow) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=0.0)
    sender.going_on.set()
    sender.answers = [SystemExit()]
    export.put(finished())
    export._thread.join(60)
    assert sender.closed.is_set()


def test_what_finds_no_room_is_dropped(sender: Slow) -> None:
    export = TraceExport(sender, {}, Registry(), "nowhere", delay=0.0)
    export.put(finished())
    assert sender.asked.wait(60)
    for _ in range(QUEUED + 5):
        export.put(finished())
    assert outcomes(export) == {"queue_full": 5}
    sender.going_on.set()
    export.close()
    assert outcomes(export) == {"queue_full": 5, "exported": QUEUED + 1}


def test_what_the_collector_does_is_told_once_each_time_it_changes(
    sender: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    sender.going_on.set()
    sender.answers = [
        NotTaken("it answers 400"),
        NotTaken("it answers 401"),
        PartialSuccess(3, "too old"),
        PartialSuccess(4, "too new"),
        NotTaken("it answers 402"),
    ]

    with caplog.at_level("INFO"):
        export = TraceExport(sender, {}, Registry(), "http://collector:4318", delay=0.0)
        for _ in range(6):
            sender.asked.clear()
            export.put(finished())
            assert sender.asked.wait(60)
        export.close()
    assert sender.closed.wait(60)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 5
    assert "does not take traces (it answers 400)" in told[0]
    assert "takes traces again" in told[1]
    assert "has rejected 3 spans of a batch and says 'too old'" in told[2]
    assert "does not take traces (it answers 402)" in told[3]
    assert "takes traces again" in told[4]
    assert outcomes(export) == {"exported": 3, "export_failed": 3}
