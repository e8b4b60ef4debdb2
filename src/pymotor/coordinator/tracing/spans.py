"""The spans of a request that is over, made from its trail.

One root for the request, and for each step a child: legs as calls to a server (CLIENT), waits as what they are
(INTERNAL). `handoff` is nobody's step: it lasts from the end of prefill to decode's first content or, where an answer
comes whole and nobody sees its first content, until decode was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from pymotor.coordinator.tracing.attributes import Attributes
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.coordinator.trail import CANCELLED, PLACEMENT, Step

HANDOFF = "handoff"
_SCOPE = InstrumentationScope("pymotor.coordinator")
_PREFILL, _DECODE, _STORED = "prefill", "decode", "stored"
_NANOSECONDS = 1_000_000_000
_SERVER_FAILED = 500
_SHORT = 0.001
"""Seconds from which placing a request is worth a span."""


class _Interval(NamedTuple):
    """A child span to be. Times are `monotonic()`."""

    name: str
    began: float
    ended: float
    span_id: bytes
    attributes: Attributes
    kind: SpanKind
    error: str = ""
    content: float = 0.0


class SpanMaker:
    """Makes spans of one process."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._ids = RandomIdGenerator()

    def spans(self, finished: FinishedRequest) -> list[ReadableSpan]:
        """The root first."""
        trace = finished.trace
        state = TraceState.from_header([trace.state.decode()]) if trace.state else TraceState()
        trace_id = int(trace.trace_id, 16)
        own = SpanContext(trace_id, int(trace.span_id, 16), False, TraceFlags(1), state)
        caller = SpanContext(trace_id, int(trace.parent_id, 16), True, TraceFlags(1)) if trace.parent_id else None
        spans = [self._root(finished, own, caller)]
        if trace.sampled:
            steps = [step for step in finished.trail.steps if step.began < finished.ended]
            intervals = [_of_step(step, steps, finished) for step in _worth(steps)]
            intervals += _handoffs(steps)
            spans += [self._child(interval, own, finished) for interval in intervals]
        return spans

    def _root(self, finished: FinishedRequest, own: SpanContext, caller: SpanContext | None) -> ReadableSpan:
        attributes = finished.attributes
        wall = finished.trail.wall
        failed = int(attributes["http.response.status_code"]) >= _SERVER_FAILED  # type: ignore[arg-type]
        events = (
            [Event("first_content", timestamp=_time(wall, finished.first_content))] if finished.first_content else []
        )
        events += [
            Event("carry_on", {"pymotor.endpoint": step.endpoint}, timestamp=_time(wall, step.began))
            for step in _carried_on(finished.trail.steps)
        ]
        return ReadableSpan(
            f"{attributes['http.request.method']} {attributes['http.route']}",
            context=own,
            parent=caller,
            resource=self._resource,
            attributes=attributes,
            events=events,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR) if failed else Status(),
            start_time=_time(wall, finished.began),
            end_time=_time(wall, finished.ended),
            instrumentation_scope=_SCOPE,
        )

    def _child(self, interval: _Interval, root: SpanContext, finished: FinishedRequest) -> ReadableSpan:
        wall = finished.trail.wall
        span_id = int(interval.span_id, 16) if interval.span_id else self._ids.generate_span_id()
        content = interval.content
        return ReadableSpan(
            interval.name,
            context=SpanContext(root.trace_id, span_id, False, TraceFlags(1), root.trace_state),
            parent=root,
            resource=self._resource,
            attributes=interval.attributes,
            events=[Event("first_content", timestamp=_time(wall, content))] if content else [],
            kind=interval.kind,
            status=Status(StatusCode.ERROR) if interval.error else Status(),
            start_time=_time(wall, interval.began),
            end_time=_time(wall, interval.ended),
            instrumentation_scope=_SCOPE,
        )


def _worth(steps: Sequence[Step]) -> Iterator[Step]:
    return (step for step in steps if step.leg != PLACEMENT or step.ended - step.began >= _SHORT)


def _of_step(step: Step, steps: Sequence[Step], finished: FinishedRequest) -> _Interval:
    attributes: Attributes = {}
    # What is not over is somebody else's by now, or was left when the request ended.
    ended = min(step.ended or finished.ended, finished.ended)
    if step.instance:
        attributes["pymotor.instance"] = step.instance
    if step.item:
        attributes["pymotor.media_item"] = step.item
    error = step.outcome if step.outcome != CANCELLED else ""
    if step.outcome:
        attributes["pymotor.outcome"] = step.outcome
    if error:
        attributes["error.type"] = error
    if not step.endpoint:
        return _Interval(step.leg, step.began, ended, b"", attributes, SpanKind.INTERNAL, error)
    _add_call(attributes, step, str(finished.attributes["http.request.method"]))
    failures = _failures_before(step, steps)
    if failures:
        attributes["http.request.resend_count"] = failures
    return _Interval(step.leg, step.began, ended, step.span_id, attributes, SpanKind.CLIENT, error, step.content)


def _add_call(attributes: Attributes, step: Step, method: str) -> None:
    host, _, port = step.server.decode().rpartition(":")
    attributes.update({
        "http.request.method": method if step.leg == _STORED else "POST",
        "server.address": host.strip("[]"),
        "server.port": int(port),
        "pymotor.endpoint": step.endpoint,
        "pymotor.leg_id": step.leg_id.decode(),
        "http.request.body.size": step.request_bytes,
    })  # fmt: skip
    if step.status:
        attributes["http.response.status_code"] = step.status
    if step.answer_bytes:
        attributes["http.response.body.size"] = step.answer_bytes


def _failures_before(step: Step, steps: Sequence[Step]) -> int:
    alike = (one for one in steps if one.leg == step.leg and one.item == step.item and one.began < step.began)
    return sum(bool(one.endpoint and one.outcome and one.outcome != CANCELLED) for one in alike)


def _handoffs(steps: Sequence[Step]) -> Iterator[_Interval]:
    """From the last good prefill to the last decode of each pair of legs, which share an id."""
    prefills = {step.leg_id: step for step in steps if step.leg == _PREFILL and step.ended and not step.outcome}
    decodes = {step.leg_id: step for step in steps if step.leg == _DECODE}
    for leg_id, prefill in prefills.items():
        decode = decodes.get(leg_id)
        until = 0.0 if decode is None else decode.content or decode.sent
        if decode is not None and until > prefill.ended:
            attributes: Attributes = {
                "pymotor.source_endpoint": prefill.endpoint,
                "pymotor.endpoint": decode.endpoint,
                "pymotor.leg_id": leg_id.decode(),
            }
            yield _Interval(HANDOFF, prefill.ended, until, b"", attributes, SpanKind.INTERNAL)


def _carried_on(steps: Sequence[Step]) -> Iterator[Step]:
    """The first leg after each that broke off after content."""
    broken = False
    for step in steps:
        if broken and step.endpoint:
            yield step
            broken = False
        broken = broken or bool(step.content and step.outcome and step.outcome != CANCELLED)


def _time(wall: float, at: float) -> int:
    """Nanoseconds since 1970."""
    return int((wall + at) * _NANOSECONDS)
