"""Spans in the bytes of OTLP: OpenTelemetry's own classes read what was meant, and its own encoder writes the same."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as some
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from pymotor.coordinator.tracing.otlp import (
    CLIENT,
    INTERNAL,
    SERVER,
    ExportRequests,
    Value,
    attribute,
    event,
    place_in_trace,
    recurring_attribute,
    span,
    varint,
)

TRACE, SPAN, PARENT = bytes(range(16)), bytes(range(8)), b"\xff" * 8
KINDS = {INTERNAL: SpanKind.INTERNAL, SERVER: SpanKind.SERVER, CLIENT: SpanKind.CLIENT}
RESOURCE = {"service.name": "gateway", "port": 7}


def read(*spans: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(ExportRequests(RESOURCE, "scope").of(spans))
    ((of_scope,),) = [of_resource.scope_spans for of_resource in request.resource_spans]
    return list(of_scope.spans)


def with_attributes(encoded: bytes) -> Span:
    place = place_in_trace(TRACE, SPAN, b"", b"")
    (found,) = read(span(place, "POST /", SERVER, 1, 2, encoded, b"", failed=False))
    return found


@pytest.mark.parametrize("encode", [attribute, recurring_attribute])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("", "string_value"),
        ("word", "string_value"),
        ("ünïcode 漢字 🙂\0", "string_value"),
        ("long " * 5000, "string_value"),
        (0, "int_value"),
        (1, "int_value"),
        (127, "int_value"),
        (128, "int_value"),
        (16383, "int_value"),
        (16384, "int_value"),
        (2**31, "int_value"),
        (2**63 - 1, "int_value"),
        (-1, "int_value"),
        (-(2**31) - 1, "int_value"),
        (-(2**63), "int_value"),
        (0.0, "double_value"),
        (0.7, "double_value"),
        (-1e300, "double_value"),
        (inf, "double_value"),
        (True, "bool_value"),
        (False, "bool_value"),
    ],
)
def test_each_type(encode: object, value: Value, kind: str) -> None:
    assert callable(encode)
    for _ in range(2):
        (pair,) = with_attributes(encode("some.name", value)).attributes
        assert pair.key == "some.name"
        assert pair.value.WhichOneof("value") == kind
        assert getattr(pair.value, kind) == value


@pytest.mark.parametrize("values", [(), ("stop",), ("stop", "", "länge")])
def test_lists(values: tuple[str, ...]) -> None:
    (pair,) = with_attributes(attribute("reasons", values)).attributes
    assert pair.value.WhichOneof("value") == "array_value"
    assert tuple(one.string_value for one in pair.value.array_value.values) == values


def test_equal_values_of_other_types_are_not_mixed_up() -> None:
    encoded = b"".join(recurring_attribute("mixed", value) for value in (1, True, 1.0, "1"))
    kinds = [pair.value.WhichOneof("value") for pair in with_attributes(encoded).attributes]
    assert kinds == ["int_value", "bool_value", "double_value", "string_value"]


def test_what_is_no_number_of_64_bits_is_left_out() -> None:
    assert attribute("n", 2**63) == attribute("n", -(2**63) - 1) == b""


def test_not_a_number() -> None:
    (pair,) = with_attributes(attribute("n", nan)).attributes
    assert pair.value.double_value != pair.value.double_value


def test_half_a_surrogate_pair_does_not_spoil_the_rest() -> None:
    encoded = attribute("model", "a\ud800b") + attribute("na\udcffme", "x")
    assert [(pair.key, pair.value.string_value) for pair in with_attributes(encoded).attributes] == [
        ("model", "a?b"),
        ("na?me", "x"),
    ]


@given(some.integers(0, 2**64 - 1))
def test_numbers_of_any_length(number: int) -> None:
    # Field 12 of a span, of which 32 bits are kept.
    assert Span.FromString(b"\x60" + varint(number)).dropped_events_count == number % 2**32
    assert len(varint(number)) == max(1, -(-number.bit_length() // 7))


def test_events() -> None:
    place = place_in_trace(TRACE, SPAN, b"", b"")
    events = event("first_content", 5) + event("carry_on", 2**63, {"pymotor.endpoint": "decode-0/0"})
    (found,) = read(span(place, "POST /", SERVER, 1, 2, b"", events, failed=False))
    first, second = found.events
    assert (first.name, first.time_unix_nano, len(first.attributes)) == ("first_content", 5, 0)
    assert (second.name, second.time_unix_nano) == ("carry_on", 2**63)
    assert [(pair.key, pair.value.string_value) for pair in second.attributes] == [("pymotor.endpoint", "decode-0/0")]


@pytest.mark.parametrize(
    ("trace_id", "span_id", "parent_id"), [(b"1", SPAN, b""), (TRACE, b"1", b""), (TRACE, SPAN, b"1"), (b"", b"", b"")]
)
def test_ids_of_other_lengths(trace_id: bytes, span_id: bytes, parent_id: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        place_in_trace(trace_id, span_id, parent_id, b"")


words = some.text(max_size=300)
values = (
    words
    | some.booleans()
    | some.integers(-(2**63), 2**63 - 1)
    | some.floats(allow_nan=False)
    | some.lists(words, max_size=3).map(tuple)
)
# Names and times are never empty or 0, which this encoder would write and the other leaves out.
names = some.text(min_size=1, max_size=300)
times = some.integers(1, 2**64 - 1)
pairs = some.dictionaries(names, values, max_size=5)


@given(
    name=names,
    kind=some.sampled_from(sorted(KINDS)),
    began=times,
    ended=times,
    attributes=pairs,
    events=some.lists(some.tuples(names, times, pairs), max_size=2),
    parent=some.none() | some.booleans(),
    state=some.sampled_from(["", "congo=t61rcWkgMzE", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"]),
    failed=some.booleans(),
)
def test_the_bytes_are_those_that_opentelemetry_writes(
    name: str,
    kind: int,
    began: int,
    ended: int,
    attributes: dict[str, Value],
    events: list[tuple[str, int, dict[str, Value]]],
    parent: bool | None,
    state: str,
    failed: bool,
) -> None:
    """`parent`: whether it is remote, None where there is none."""
    own = ExportRequests(RESOURCE, "scope").of([
        span(
            place_in_trace(TRACE, SPAN, b"" if parent is None else PARENT, state.encode()),
            name,
            kind,
            began,
            ended,
            b"".join(attribute(key, value) for key, value in attributes.items()),
            b"".join(event(key, at, more) for key, at, more in events),
            failed=failed,
            remote=bool(parent),
        )
    ])  # fmt: skip
    trace_state = TraceState.from_header([state]) if state else TraceState()
    trace_id = int.from_bytes(TRACE, "big")
    caller = None
    if parent is not None:
        caller = SpanContext(trace_id, int.from_bytes(PARENT, "big"), parent, TraceFlags(1))
    theirs = ReadableSpan(
        name,
        context=SpanContext(trace_id, int.from_bytes(SPAN, "big"), False, TraceFlags(1), trace_state),
        parent=caller,
        resource=Resource(RESOURCE),
        attributes=attributes,
        events=[Event(key, more, timestamp=at) for key, at, more in events],
        kind=KINDS[kind],
        status=Status(StatusCode.ERROR) if failed else Status(),
        start_time=began,
        end_time=ended,
        instrumentation_scope=InstrumentationScope("scope"),
    )
    assert own == encode_spans([theirs]).SerializeToString(deterministic=True)
