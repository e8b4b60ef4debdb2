"""Decides which requests of a worker are traced, tells engines of it, and hands on those that are over."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pymotor.coordinator.flows.services import RequestIds
from pymotor.coordinator.following import FollowedRequest
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.settings import TracingSettings
from pymotor.coordinator.tracing.attributes import request_attributes
from pymotor.coordinator.tracing.otlp import Attributes
from pymotor.coordinator.tracing.sampling import Sampler
from pymotor.coordinator.tracing.trace_context import TraceContext, remote_parent
from pymotor.coordinator.trail import Trail


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

    __slots__ = ("_exporting", "_ids", "_sampler", "_scheme")

    def __init__(self, settings: TracingSettings, exporting: Exporting, scheme: str = "http") -> None:
        """`scheme`: what clients speak."""
        self._scheme = scheme
        self._sampler = Sampler(settings)
        self._exporting = exporting
        self._ids = RequestIds()

    def use(self, settings: TracingSettings) -> None:
        """Requests that begin from now on are sampled by these ratios."""
        self._sampler = Sampler(settings)

    def begin(self, request: ClientRequest) -> tuple[Trail | None, bytes]:
        """See `TrailMaker`. Engines are told of requests that are not traced as well: they would begin traces of
        their own otherwise."""
        sampler = self._sampler
        parent = remote_parent(request.headers) if b"traceparent" in request.headers else None
        if parent is not None:
            sampled = sampler.samples(parent.trace_id, parent)
            return self._begun(parent.trace_id, parent.span_id, parent.state, sampled=sampled)
        trace_id = self._ids.next()
        if sampler.samples(trace_id, None):
            return self._begun(trace_id, b"", b"", sampled=True)
        # Nobody will ever see the span that this names.
        return None, b"traceparent: 00-%b-%b-00\r\n" % (trace_id, trace_id[:16])

    def _begun(self, trace_id: bytes, parent_id: bytes, state: bytes, *, sampled: bool) -> tuple[Trail | None, bytes]:
        if not sampled:
            unsampled = TraceContext(trace_id, parent_id, sampled=False, state=state)
            return None, unsampled.header_lines(parent_id)
        steps = self._sampler.samples_steps(trace_id)
        trace = TraceContext(trace_id, self._ids.next()[:16], parent_id=parent_id, sampled=steps, state=state)
        return Trail(trace), b""

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
