"""The spans of a request that is over, made from its trail.

One root for the request, and for each step a child: legs as calls to a server (CLIENT), waits as what they are
(INTERNAL). `handoff` is nobody's step: it lasts from the end of prefill to decode's first content or, where an answer
comes whole and nobody sees its first content, until decode was asked.
"""

from __future__ import annotations

import os
from binascii import unhexlify
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from pymotor.coordinator.tracing.otlp import (
    CLIENT,
    INTERNAL,
    SERVER,
    Attributes,
    attribute,
    event,
    place_in_trace,
    recurring_attribute,
    span,
)
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.coordinator.trail import CANCELLED, PLACEMENT, Step

HANDOFF = "handoff"
_FIRST_CONTENT = "first_content"
_PREFILL, _DECODE, _STORED = "prefill", "decode", "stored"
_NANOSECONDS = 1_000_000_000
_SERVER_FAILED = 500
_SHORT = 0.001
"""Seconds from which placing a request is worth a span."""
_HARDLY_AGAIN = frozenset((
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.usage.input_tokens",
    "http.request.body.size",
    "http.response.body.size",
    "pymotor.answer_events",
    "pymotor.engine_request_id",
    "pymotor.leg_id",
    "pymotor.request_id",
))  # fmt: skip
"""Attributes whose values hardly ever come again: remembering them would push out others."""


class _Interval(NamedTuple):
    """A child span to be. Times are `monotonic()`."""

    name: str
    began: float
    ended: float
    span_id: bytes
    attributes: Attributes
    kind: int
    error: str = ""
    content: float = 0.0


def encoded_spans(finished: FinishedRequest) -> list[bytes]:
    """As OTLP has them, the root first. Raises `ValueError` for a trace whose ids are none."""
    trace, wall = finished.trace, finished.trail.wall
    trace_id, root_id = unhexlify(trace.trace_id), unhexlify(trace.span_id)
    attributes = finished.attributes
    status = attributes["http.response.status_code"]
    root = span(
        place_in_trace(trace_id, root_id, unhexlify(trace.parent_id), trace.state),
        f"{attributes['http.request.method']} {attributes['http.route']}",
        SERVER,
        _time(wall, finished.began),
        _time(wall, finished.ended),
        _encoded(attributes),
        _root_events(finished),
        failed=isinstance(status, int) and status >= _SERVER_FAILED,
        remote=bool(trace.parent_id),
    )
    if not trace.sampled:
        return [root]
    steps = [step for step in finished.trail.steps if step.began < finished.ended]
    spans = [root]
    for one in (*(_of_step(step, steps, finished) for step in _worth(steps)), *_handoffs(steps)):
        span_id = unhexlify(one.span_id) if one.span_id else os.urandom(8)
        spans.append(
            span(
                place_in_trace(trace_id, span_id, root_id, trace.state),
                one.name,
                one.kind,
                _time(wall, one.began),
                _time(wall, one.ended),
                _encoded(one.attributes),
                event(_FIRST_CONTENT, _time(wall, one.content)) if one.content else b"",
                failed=bool(one.error),
            )
        )
    return spans


def _encoded(attributes: Attributes) -> bytes:
    return b"".join([
        attribute(name, value) if name in _HARDLY_AGAIN else recurring_attribute(name, value)
        for name, value in attributes.items()
    ])  # fmt: skip


def _root_events(finished: FinishedRequest) -> bytes:
    wall = finished.trail.wall
    first = finished.first_content
    events = event(_FIRST_CONTENT, _time(wall, first)) if first else b""
    for step in _carried_on(finished.trail.steps):
        events += event("carry_on", _time(wall, step.began), {"pymotor.endpoint": step.endpoint})
    return events


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
        return _Interval(step.leg, step.began, ended, b"", attributes, INTERNAL, error)
    _add_call(attributes, step, str(finished.attributes["http.request.method"]))
    failures = _failures_before(step, steps)
    if failures:
        attributes["http.request.resend_count"] = failures
    return _Interval(step.leg, step.began, ended, step.span_id, attributes, CLIENT, error, step.content)


def _add_call(attributes: Attributes, step: Step, method: str) -> None:
    attributes["http.request.method"] = method if step.leg == _STORED else "POST"
    attributes["server.address"], attributes["server.port"] = _server(step.server)
    attributes["pymotor.endpoint"] = step.endpoint
    attributes["pymotor.leg_id"] = step.leg_id.decode()
    attributes["http.request.body.size"] = step.request_bytes
    if step.status:
        attributes["http.response.status_code"] = step.status
    if step.answer_bytes:
        attributes["http.response.body.size"] = step.answer_bytes


@lru_cache(maxsize=1024)
def _server(server: bytes) -> tuple[str, int]:
    host, _, port = server.decode().rpartition(":")
    return host.strip("[]"), int(port)


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
            yield _Interval(HANDOFF, prefill.ended, until, b"", attributes, INTERNAL)


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
