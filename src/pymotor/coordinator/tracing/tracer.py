"""Decides which requests of a worker are traced, tells engines of it, and hands on those that are over."""

from __future__ import annotations

import os
from binascii import hexlify
from struct import iter_unpack
from typing import NamedTuple, Protocol

from pymotor.coordinator.following import FollowedRequest
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.settings import TracingSettings
from pymotor.coordinator.tracing.attributes import request_attributes
from pymotor.coordinator.tracing.otlp import Attributes
from pymotor.coordinator.tracing.sampling import Sampler
from pymotor.coordinator.tracing.trace_context import RemoteParent, TraceContext, header_lines, remote_parent
from pymotor.coordinator.trail import Trail

_STOCK = 256


class FinishedRequest(NamedTuple):
    """A traced request that is over; keeps nothing of its body. Times are `monotonic()`."""

    trail: Trail
    trace: TraceContext
    began: float
    ended: float
    first_content: float
    """When the client was sent its first content; 0.0: never."""
    attributes: Attributes


class Exporting(Protocol):
    """Who exports traces."""

    def put(self, finished: FinishedRequest) -> None:
        """Have this exported soon. Returns at once."""


class Tracer:
    """A `Follower` of the requests that are traced."""

    __slots__ = ("_exporting", "_ids", "_root_bound", "_sampler", "_scheme")

    def __init__(self, settings: TracingSettings, exporting: Exporting, scheme: str = "http") -> None:
        """`scheme`: what clients speak."""
        self._scheme = scheme
        self._exporting = exporting
        self._ids: list[tuple[bytes, bytes]] = []
        """Upper and lower halves of trace ids that are not taken yet, 16 hexadecimal digits each: a stock, since a
        call for each request would cost more."""
        self.use(settings)

    def use(self, settings: TracingSettings) -> None:
        """Requests that begin from now on are sampled by these ratios."""
        self._sampler = Sampler(settings)
        self._root_bound = self._sampler.root_bound

    def begin(self, request: ClientRequest) -> tuple[Trail | None, bytes]:
        """See `TrailMaker`. Engines are told of requests that are not traced as well: they would begin traces of
        their own otherwise. Hot path."""
        if b"traceparent" in request.headers:
            parent = remote_parent(request.headers)
            if parent is not None:
                return self._begun_by(parent)
        ids = self._ids
        if not ids:
            ids += new_ids()
        upper, lower = ids.pop()
        if lower < self._root_bound:
            return self._begun(upper + lower, b"", b""), b""
        # Nobody will ever see the span that this names.
        return None, b"traceparent: 00-%b%b-%b-00\r\n" % (upper, lower, upper)

    def _begun_by(self, parent: RemoteParent) -> tuple[Trail | None, bytes]:
        trace_id = parent.trace_id
        if self._sampler.samples(parent):
            return self._begun(trace_id, parent.span_id, parent.state), b""
        return None, header_lines(trace_id, parent.span_id, parent.state, sampled=False)

    def _begun(self, trace_id: bytes, parent_id: bytes, state: bytes) -> Trail:
        steps = self._sampler.samples_steps(trace_id)
        ids = self._ids
        if not ids:
            ids += new_ids()
        return Trail(TraceContext(trace_id, ids.pop()[0], parent_id=parent_id, sampled=steps, state=state))

    def wants(self, now: float) -> bool:  # noqa: ARG002  it does not depend on it
        """See `Follower`: what it wants it has decided in `begin`."""
        return False

    def over(self, followed: FollowedRequest) -> None:
        """See `Follower`."""
        trail, context = followed.trail, followed.context
        if trail.trace is None:
            return
        received = followed.request.received_at
        first = None if context is None else context.first_token_seconds
        self._exporting.put(
            FinishedRequest(
                trail,
                trail.trace,
                followed.request.began_at or received,
                followed.ended,
                0.0 if first is None else received + first,
                request_attributes(followed, self._scheme),
            )
        )


def new_ids() -> list[tuple[bytes, bytes]]:
    """Halves of trace ids that nobody can guess."""
    return list(iter_unpack("16s16s", hexlify(os.urandom(16 * _STOCK))))
