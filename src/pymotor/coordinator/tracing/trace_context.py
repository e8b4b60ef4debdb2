"""Which trace a request belongs to, as W3C Trace Context says it in `traceparent` and `tracestate`.

https://www.w3.org/TR/trace-context/, version 00. What is broken is as if it had not come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16
_FORBIDDEN_VERSION = b"ff"
_SAMPLED = 1
_STATE_MEMBERS = 32
_KEY = rb"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_VALUE = rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rb"(" + _KEY + rb")=" + _VALUE)


class TraceContext:
    """A request's place in its trace."""

    __slots__ = ("parent_id", "sampled", "span_id", "state", "trace_id")

    def __init__(
        self, trace_id: bytes, span_id: bytes, *, parent_id: bytes = b"", sampled: bool, state: bytes = b""
    ) -> None:
        """`trace_id` has 32 hexadecimal digits, `span_id` 16: the request's own span. `parent_id` is the caller's
        span, empty where there is none; `state` the `tracestate` to pass on, empty where there is none."""
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled
        """Whether engines are asked for spans of their own, and the request's steps are exported."""
        self.state = state

    def header_lines(self, parent_id: bytes) -> bytes:
        """The lines of a head that tell an engine of the trace, with `parent_id` as the span that asks it."""
        return header_lines(self.trace_id, parent_id, self.state, sampled=self.sampled)


def header_lines(trace_id: bytes, parent_id: bytes, state: bytes, *, sampled: bool) -> bytes:
    """See `TraceContext`."""
    line = b"traceparent: 00-%b-%b-%b\r\n" % (trace_id, parent_id, b"01" if sampled else b"00")
    return line + b"tracestate: %b\r\n" % state if state else line


class RemoteParent:
    """What a caller said of its trace."""

    __slots__ = ("sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, *, sampled: bool, state: bytes) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.state = state


def remote_parent(headers: Mapping[bytes, bytes]) -> RemoteParent | None:
    """The caller's trace in a request's headers (names in lower case); None where there is none that can be read."""
    value = headers.get(b"traceparent")
    match = None if value is None else _PARENT.fullmatch(value.strip(b" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == _FORBIDDEN_VERSION or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if version == b"00" and more is not None:
        # Only later versions may say more than that.
        return None
    sampled = bool(int(flags, 16) & _SAMPLED)
    return RemoteParent(trace_id, span_id, sampled=sampled, state=_state(headers.get(b"tracestate", b"")))


def _state(value: bytes) -> bytes:
    """The `tracestate` to pass on; one broken member, a key that comes twice or too many spoil the whole."""
    if not value:
        return b""
    members = [member for member in (part.strip(b" \t") for part in value.split(b",")) if member]
    matches = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in matches if match is not None}
    if len(members) > _STATE_MEMBERS or len(keys) != len(members):
        return b""
    return b",".join(members)
