"""Legs that did not bring what they were sent for, and what their clients are told."""

from __future__ import annotations

from time import monotonic

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError, message_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.http.exchange import NO_CONNECTION, EngineStreamError, UpstreamError
from pymotor.coordinator.recovery.recomputed import RECOMPUTED, Recomputed
from pymotor.coordinator.scheduling.target import Target

_OUR_FAULT = frozenset((401, 403))
_BUSY = frozenset((408, 429))


CLOSED = "closed"
"""Why a leg was not sent: since its endpoints were listed, all that are left have been closed to new ones."""
_HARMLESS = NO_CONNECTION | {"expired", "busy", CLOSED, RECOMPUTED}


class LegFailed(Exception):
    """A leg did not bring what it was sent for."""

    def __init__(
        self, leg: str, target: Target, reason: str, message: str, *, status: int = 0, body: bytes = b""
    ) -> None:
        """`reason` is one word for metrics; `status` and `body` are the engine's own, if it answered."""
        super().__init__(message)
        self.leg = leg
        self.target = target
        self.reason = reason
        self.status = status
        self.body = body

    @property
    def clients_fault(self) -> bool:
        """Whether the engine refused the request itself, so that no other endpoint would take it."""
        return 400 <= self.status < 500 and self.status not in _OUR_FAULT and self.status not in _BUSY

    @property
    def final(self) -> bool:
        """Whether no other endpoint would do any better, so that none is asked."""
        return self.clients_fault or self.status in _OUR_FAULT

    @property
    def harmless(self) -> bool:
        """Whether the request cannot be what broke the engine: a connection that was refused has harmed nobody, an
        engine that is busy or out of KV cache says so. After a reset, a time-out or a 5xx nobody knows."""
        return self.reason in _HARMLESS

    def as_api_error(self) -> ApiError:
        """What the client is told."""
        where = f"{self.leg} on {self.target.instance.name}"
        if self.status in _OUR_FAULT:
            return ApiError(502, f"{where} refused the gateway (status {self.status})", code="engine_refused")
        if self.status == 429:
            return ApiError(429, f"{where} is overloaded", code="engine_overloaded")
        if self.reason == RECOMPUTED:
            return ApiError(503, f"{where}: {self}", code="recompute_retry_exhausted")
        if self.reason == "connect":
            return ApiError(502, f"{where} cannot be reached", code="engine_unreachable")
        if self.reason == "tls":
            return ApiError(
                502, f"{where} cannot be reached by TLS; the gateway's log says why", code="engine_unreachable"
            )
        if self.reason == "timeout":
            return ApiError(504, f"{where} did not answer in time", code="engine_timeout")
        if self.status:
            reason = message_of(self.body)[:500] or "no reason given"
            return ApiError(502, f"{where} failed: {reason}", code="engine_error")
        return ApiError(502, f"{where} failed: {self}", code="engine_unreachable")


def failed(context: Context, leg: str, target: Target, error: UpstreamError) -> LegFailed:
    """The failure that a transport error means, noted in the metrics and against the endpoint."""
    context.services.instruments.leg_failed(leg, target.instance.name, error.reason)
    if error.reason != RECOMPUTED:
        context.services.circuits.failed(target, monotonic())
    return LegFailed(leg, target, error.reason, str(error))


def gave_up(context: Context, leg: str, target: Target) -> LegFailed:
    """The failure that a whole reply means in which the engine asks for the request to be computed again."""
    if context.trail is not None:
        context.trail.no_good(RECOMPUTED)
    return failed(context, leg, target, Recomputed())


def refusal_reason(status: int) -> str:
    """The word for metrics of a reply with an error status."""
    return "busy" if status in _BUSY or status == 503 else f"status_{status}"


def refused(context: Context, leg: str, target: Target, status: int, body: bytes) -> LegFailed:
    """The failure that a reply with an error status means, noted in the metrics and, if it is the engine's own,
    against the endpoint."""
    if status >= 500:
        context.services.circuits.failed(target, monotonic())
    reason = refusal_reason(status)
    context.services.instruments.leg_failed(leg, target.instance.name, reason)
    return LegFailed(leg, target, reason, f"status {status}", status=status, body=body)


def refused_in_stream(context: Context, leg: str, target: Target, error: EngineStreamError) -> LegFailed:
    """The same of a stream that began with an error object in place of content."""
    return refused(context, leg, target, _status_of(error.error), b'{"error":' + error.error + b"}")


class _CodedError(msgspec.Struct):
    code: int | str | None = None


def _status_of(error: bytes) -> int:
    """The status an error object in a stream stands for: vLLM puts it into `code`."""
    try:
        code = msgspec.json.decode(error, type=_CodedError).code
    except UNREADABLE:
        return 500
    return code if isinstance(code, int) and 400 <= code < 600 else 500
