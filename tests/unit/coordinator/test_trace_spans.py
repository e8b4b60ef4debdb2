"""Which spans become of a request that is over, read by OpenTelemetry's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags

from pymotor.coordinator.tracing.otlp import Attributes, ExportRequests
from pymotor.coordinator.tracing.spans import encoded_spans
from pymotor.coordinator.tracing.trace_context import TraceContext
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.coordinator.trail import CANCELLED, PLACEMENT, QUEUE, Step, Trail

TRACE, ROOT, CALLER = b"0af7651916cd43dd8448eb211c80319c", b"00f067aa0ba902b7", b"b7ad6b7169203331"
LEG_ID = b"f" * 32
WALL = 1_700_000_000.0
ATTRIBUTES: Attributes = {
    "http.request.method": "POST",
    "http.route": "/v1/chat/completions",
    "http.response.status_code": 200,
}
LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
REMOTE = LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


def leg(name: str, began: float, ended: float, *, number: int = 0, **more: Any) -> Step:
    step = Step(name, began)
    step.endpoint, step.instance = f"{name}-{number}/0", f"{name}-{number}"
    step.server, step.leg_id = b"10.0.0.1:8000", LEG_ID
    step.span_id = b"%016x" % (ord(name[0]) * 1000 + number)
    step.sent, step.ended, step.status, step.request_bytes = began, ended, 200, 500
    for key, value in more.items():
        setattr(step, key, value)
    return step


def wait(name: str, began: float, ended: float) -> Step:
    step = Step(name, began)
    step.ended = ended
    return step


def spans(*steps: Step, **more: Any) -> list[Span]:
    """Of a request that took ten seconds; `more` says what is not as usual."""
    asked = TraceContext(
        TRACE, ROOT, parent_id=more.pop("parent", b""), sampled=more.pop("steps", True), state=more.pop("state", b"")
    )
    trail = Trail(asked)
    trail.steps.extend(steps)
    trail.wall = WALL
    finished = FinishedRequest(trail, asked, 0.0, 10.0, more.pop("first_content", 0.0), {**ATTRIBUTES, **more})
    request = ExportRequests({"service.name": "x"}, "scope").of(encoded_spans(finished))
    (of_resource,) = ExportTraceServiceRequest.FromString(request).resource_spans
    (of_scope,) = of_resource.scope_spans
    assert of_scope.scope.name == "scope"
    return list(of_scope.spans)


def words(span: Span) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


def seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9 - WALL


def test_a_root_alone() -> None:
    (root,) = spans(leg("union", 1.0, 2.0), steps=False)
    assert (root.trace_id.hex().encode(), root.span_id.hex().encode()) == (TRACE, ROOT)
    assert (root.name, root.kind) == ("POST /v1/chat/completions", Span.SPAN_KIND_SERVER)
    assert (root.parent_span_id, root.trace_state, root.flags) == (b"", "", LOCAL)
    assert (seconds(root.start_time_unix_nano), seconds(root.end_time_unix_nano)) == (0.0, 10.0)
    assert root.HasField("status")
    assert root.status.code == 0
    assert words(root) == ATTRIBUTES
    assert not root.events


def test_the_callers_trace() -> None:
    root, child = spans(leg("union", 1.0, 2.0), parent=CALLER, state=b"congo=1,rojo=2")
    assert (root.parent_span_id.hex().encode(), root.flags) == (CALLER, REMOTE)
    assert (child.parent_span_id.hex().encode(), child.flags) == (ROOT, LOCAL)
    assert {root.trace_state, child.trace_state} == {"congo=1,rojo=2"}
    assert {root.trace_id, child.trace_id} == {bytes.fromhex(TRACE.decode())}


@pytest.mark.parametrize(("status", "code"), [(200, 0), (404, 0), (499, 0), (500, 2), (503, 2)])
def test_statuses(status: int, code: int) -> None:
    (root,) = spans(**{"http.response.status_code": status})
    assert root.status.code == code


def test_two_stages() -> None:
    root, queue, prefill, decode, handoff = spans(
        wait(QUEUE, 0.5, 1.0),
        leg("prefill", 1.0, 2.0, answer_bytes=70),
        leg("decode", 2.0, 9.0, content=3.0),
        first_content=3.5,
    )
    assert [(event.name, seconds(event.time_unix_nano)) for event in root.events] == [("first_content", 3.5)]
    assert (queue.name, queue.kind, words(queue)) == ("queue", Span.SPAN_KIND_INTERNAL, {})
    assert (prefill.name, prefill.kind) == ("prefill", Span.SPAN_KIND_CLIENT)
    assert words(prefill) == {
        "pymotor.instance": "prefill-0",
        "http.request.method": "POST",
        "server.address": "10.0.0.1",
        "server.port": 8000,
        "pymotor.endpoint": "prefill-0/0",
        "pymotor.leg_id": LEG_ID.decode(),
        "http.request.body.size": 500,
        "http.response.status_code": 200,
        "http.response.body.size": 70,
    }
    assert [(event.name, seconds(event.time_unix_nano)) for event in decode.events] == [("first_content", 3.0)]
    assert int.from_bytes(decode.span_id, "big") == ord("d") * 1000
    assert (handoff.name, handoff.kind) == ("handoff", Span.SPAN_KIND_INTERNAL)
    assert (seconds(handoff.start_time_unix_nano), seconds(handoff.end_time_unix_nano)) == (2.0, 3.0)
    assert words(handoff)["pymotor.source_endpoint"] == "prefill-0/0"
    assert len({span.span_id for span in (root, queue, prefill, decode, handoff)}) == 5


def test_what_failed_and_what_was_left() -> None:
    root, failed, again, cancelled, open_at_the_end = spans(
        leg("decode", 1.0, 2.0, outcome="reset", content=1.5, status=0),
        leg("decode", 2.0, 3.0, number=1),
        leg("encode", 1.0, 2.0, outcome=CANCELLED, item="0", server=b"[fd00::1]:8000"),
        leg("union", 4.0, 0.0),
    )
    assert [event.name for event in root.events] == ["carry_on"]
    assert root.events[0].attributes[0].value.string_value == "decode-1/0"
    assert failed.status.code == 2
    assert (words(failed)["error.type"], words(failed)["pymotor.outcome"]) == ("reset", "reset")
    assert "http.response.status_code" not in words(failed)
    assert (again.status.code, words(again)["http.request.resend_count"]) == (0, 1)
    assert cancelled.status.code == 0
    assert words(cancelled)["pymotor.outcome"] == CANCELLED
    assert (words(cancelled)["server.address"], words(cancelled)["pymotor.media_item"]) == ("fd00::1", "0")
    assert "error.type" not in words(cancelled)
    assert seconds(open_at_the_end.end_time_unix_nano) == 10.0


def test_steps_that_are_no_spans() -> None:
    short, long, behind = wait(PLACEMENT, 1.0, 1.0005), wait(PLACEMENT, 2.0, 2.5), wait(QUEUE, 10.5, 11.0)
    assert [span.name for span in spans(short, long, behind)[1:]] == ["placement"]


def test_a_stored_response_is_asked_for_as_the_client_did() -> None:
    _, stored = spans(leg("stored", 1.0, 2.0), **{"http.request.method": "DELETE"})
    assert words(stored)["http.request.method"] == "DELETE"


def test_ids_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"hex|length"):
        encoded_spans(
            FinishedRequest(Trail(), TraceContext(b"no digits", ROOT, sampled=True), 0.0, 1.0, 0.0, ATTRIBUTES)
        )
