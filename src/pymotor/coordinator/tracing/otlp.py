"""Spans as a collector takes them: messages of OTLP's `trace.proto`, in the wire format of Protocol Buffers.

Each function returns the bytes of one field, its key and its length included, so that a message is its fields joined.
Attributes that recur are encoded once. Field numbers are those of opentelemetry-proto 1.x, which never change
(https://github.com/open-telemetry/opentelemetry-proto), the format is https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct

Value = str | int | float | bool | tuple[str, ...]
Attributes = dict[str, Value]

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans."""
_KNOWN_ATTRIBUTES = 4096
_VARINT_BITS = 64
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1
_SHORT = tuple(bytes((number,)) for number in range(128))
_double = Struct("<d").pack
_times = Struct("<cQcQ").pack
_time_of_event = Struct("<cQ").pack

# Keys of fields: the number, shifted left by three, and the wire type, as trace.proto and common.proto have them.
_SPAN_ATTRIBUTE = b"\x4a"
_SPAN_EVENT = b"\x5a"
_EVENT_ATTRIBUTE = b"\x1a"
_RESOURCE_ATTRIBUTE = b"\x0a"
_STATUS_UNSET, _STATUS_ERROR = b"\x7a\x00", b"\x7a\x02\x18\x02"
_HAS_IS_REMOTE = b"\x85\x01\x00\x01\x00\x00"
_IS_REMOTE = b"\x85\x01\x00\x03\x00\x00"
"""Field `flags`: whether the parent is in another process is known (bit 8), and it is (bit 9)."""


def varint(number: int) -> bytes:
    """A number from 0 to 2^64 - 1."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _field(key: bytes, content: bytes) -> bytes:
    return key + varint(len(content)) + content


def _text(key: bytes, text: str) -> bytes:
    # What is no Unicode, as half a surrogate pair, no collector could read.
    return _field(key, text.encode("utf-8", "replace"))


def _any_value(value: Value) -> bytes:
    """The content of an `AnyValue`; empty for integers that have no room in 64 bits."""
    if isinstance(value, str):
        return _text(b"\x0a", value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if not _LOWEST <= value <= _HIGHEST:
            return b""
        return b"\x18" + varint(value if value >= 0 else value + (1 << _VARINT_BITS))
    if isinstance(value, float):
        return b"\x21" + _double(value)
    return _field(b"\x2a", b"".join([_field(b"\x0a", _any_value(one)) for one in value]))


@lru_cache(maxsize=_KNOWN_ATTRIBUTES)
def _name(name: str) -> bytes:
    return _text(b"\x0a", name) + b"\x12"


def _attribute(key: bytes, name: str, value: Value) -> bytes:
    content = _any_value(value)
    return _field(key, _name(name) + varint(len(content)) + content) if content else b""


def attribute(name: str, value: Value) -> bytes:
    """Of a span; empty where an integer has no room in 64 bits."""
    return _attribute(_SPAN_ATTRIBUTE, name, value)


# A value's type has a part in the key: 1, 1.0 and True are equal.
@lru_cache(maxsize=_KNOWN_ATTRIBUTES, typed=True)
def recurring_attribute(name: str, value: Value) -> bytes:
    """As `attribute`, for values that come again; floats 0.0 and -0.0 are taken for the same."""
    return _attribute(_SPAN_ATTRIBUTE, name, value)


def event(name: str, at: int, attributes: Mapping[str, Value] | None = None) -> bytes:
    """Of a span, `at` nanoseconds since 1970."""
    content = _time_of_event(b"\x09", at) + _text(b"\x12", name)
    if attributes:
        content += b"".join([_attribute(_EVENT_ATTRIBUTE, key, value) for key, value in attributes.items()])
    return _field(_SPAN_EVENT, content)


def span(
    place: bytes,
    name: str,
    kind: int,
    began: int,
    ended: int,
    attributes: bytes,
    events: bytes,
    *,
    failed: bool,
    remote: bool = False,
) -> bytes:
    """One span of a `ScopeSpans`, with its `place_in_trace`; times are nanoseconds since 1970. `attributes` and
    `events` are joined fields. `failed` makes the status an error, without one it is unset. `remote`: the parent is in
    another process."""
    content = b"".join((
        place,
        _span_name(name, kind),
        _times(b"\x39", began, b"\x41", ended),
        attributes,
        events,
        _STATUS_ERROR if failed else _STATUS_UNSET,
        _IS_REMOTE if remote else _HAS_IS_REMOTE,
    ))  # fmt: skip
    return b"\x12" + varint(len(content)) + content


@lru_cache(maxsize=_KNOWN_ATTRIBUTES)
def _span_name(name: str, kind: int) -> bytes:
    return _text(b"\x2a", name) + b"\x30" + varint(kind)


def place_in_trace(trace_id: bytes, span_id: bytes, parent_id: bytes, state: bytes) -> bytes:
    """Fields of a span: 16 bytes of its trace, 8 of itself and 8 of its parent, empty where it has none; `state` is
    the trace's `tracestate`, in ASCII. Raises `ValueError` for ids of other lengths."""
    if (len(trace_id), len(span_id)) != (16, 8) or len(parent_id) not in (0, 8):
        raise ValueError("ids of traces have 16 bytes, those of spans 8")
    place = b"\x0a\x10" + trace_id + b"\x12\x08" + span_id
    if state:
        place += _field(b"\x1a", state)
    return place + b"\x22\x08" + parent_id if parent_id else place


class ExportRequests:
    """Makes `ExportTraceServiceRequest`s of one process."""

    def __init__(self, resource: Mapping[str, Value], scope: str) -> None:
        """`resource` says who speaks, `scope` names the instrumentation."""
        attributes = b"".join([_attribute(_RESOURCE_ATTRIBUTE, name, value) for name, value in resource.items()])
        self._resource = _field(b"\x0a", attributes)
        self._scope = _field(b"\x0a", _text(b"\x0a", scope))

    def of(self, spans: Iterable[bytes]) -> bytes:
        """The request that sends these `span`s."""
        of_scope = _field(b"\x12", self._scope + b"".join(spans))
        return _field(b"\x0a", self._resource + of_scope)
