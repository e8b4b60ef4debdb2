"""One request to one endpoint: sending it, and waiting for what it brings.

Hot path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Protocol, TypeVar

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.leg_failures import LegFailed, failed, refusal_reason, refused, refused_in_stream
from pymotor.coordinator.http.exchange import EngineStreamError, Receiver, StaleConnection, UpstreamError
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.http.upstream import UpstreamConnection
from pymotor.coordinator.scheduling.target import Target
from pymotor.coordinator.trail import CANCELLED, Step, Trail
from pymotor.fleet import Role

Buffers = Sequence[bytes | memoryview]

_JOINED_BYTES = 65536
_REQUEST = b"%b%b\r\n%b%bContent-Length: %d\r\n\r\n%b"
"""What goes before, the id, two times header lines, the body's length and as much of it as is not sent by itself."""
_PREFILL = Role.PREFILL.value


def head_start(target: Target, path: bytes) -> bytes:
    """The part of a leg's head that is the same for every request. No header of the client's is passed on: engines
    act on some of them."""
    start = target.head_starts.get(path)
    if start is None:
        start = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nX-Request-Id: " % (
            path,
            target.host_header,
        )
        target.head_starts[path] = start
    return start


class Ending(Receiver, Protocol):
    """A receiver that can be waited for."""

    done: asyncio.Future[None]
    """Set when the reply is over; its exception is an `UpstreamError`."""
    connection: UpstreamConnection | None
    """Where the reply comes from, once the request is sent."""
    status: int
    """Of the reply's head; 0 before it came."""


AnyReceiver = TypeVar("AnyReceiver", bound=Ending)


def exchange(
    context: Context,
    leg: str,
    target: Target,
    buffers: Buffers,
    leg_id: bytes,
    make_receiver: Callable[[], AnyReceiver],
    path: bytes | None = None,
    headers: bytes = b"",
    send_by: float | None = None,
    until: float | None = None,
    item: str = "",
) -> Coroutine[Any, Any, AnyReceiver]:
    """Send a leg's request and wait until its receiver is done; returns the receiver.

    `path` is the client's by default; `headers` are lines of the leg's own; by `send_by` (`monotonic()`) the request
    must have been sent. `until` is when the reply must be whole, or have content where the receiver then calls
    `content_came`; without it only silence is limited. A kept-alive connection that turns out to be closed is
    replaced once. `item` is which media item it is for. Raises `LegFailed`.
    """
    trail = context.trail
    if trail is None:
        return _exchange(context, leg, target, buffers, leg_id, make_receiver, path, headers, send_by, until, None)
    step, lines = begin_step(context, trail, leg, target, leg_id, sum(map(len, buffers)), item)
    headers += lines
    running = _exchange(context, leg, target, buffers, leg_id, make_receiver, path, headers, send_by, until, step)
    return followed(trail, step, running)


def begin_step(
    context: Context, trail: Trail, leg: str, target: Target, leg_id: bytes, request_bytes: int = 0, item: str = ""
) -> tuple[Step, bytes]:
    """The step of a leg that begins, and the header lines by which its engine knows the trace."""
    trace = trail.trace
    span_id = b"" if trace is None else context.services.ids.next()[:16]
    step = trail.begin_leg(leg, target, leg_id, span_id, request_bytes, item)
    return step, b"" if trace is None else trace.header_lines(span_id)


async def followed(trail: Trail, step: Step, running: Coroutine[Any, Any, AnyReceiver]) -> AnyReceiver:
    """A leg whose end is noted."""
    outcome = CANCELLED
    try:
        receiver = await running
        refusal = receiver.status and not 200 <= receiver.status < 300
        outcome = refusal_reason(receiver.status) if refusal else ""
    except LegFailed as failure:
        outcome = failure.reason
        raise
    except ApiError as error:
        outcome = error.detail.code or "failed"
        raise
    finally:
        trail.end_leg(step, outcome)
    return receiver


async def _exchange(
    context: Context,
    leg: str,
    target: Target,
    buffers: Buffers,
    leg_id: bytes,
    make_receiver: Callable[[], AnyReceiver],
    path: bytes | None,
    headers: bytes,
    send_by: float | None,
    until: float | None,
    step: Step | None,
) -> AnyReceiver:
    """As `exchange`, which says what happens to `step`."""
    if context.choice is not None:
        context.choice.leg_ids.append(leg_id)
    # A body that is not kept can be sent once only.
    fresh = not context.kept
    pool = target.pool
    while True:
        connection = None if fresh else pool.take_idle()
        if connection is None:
            connection = await _connected(context, leg, target)
        if send_by is not None and monotonic() > send_by:
            pool.put_back(connection)
            raise LegFailed(leg, target, "expired", "the KV cache it should fetch may be gone by now")
        receiver = make_receiver()
        _send(context, target, connection, receiver, buffers, leg_id, path, headers, until)
        receiver.connection = connection
        if step is not None:
            step.sent = monotonic()
            step.connection = connection
        if not context.kept and context.sending is buffers:
            context.drop_body()
        try:
            await receiver.done
        except asyncio.CancelledError:
            connection.abandon(receiver)
            raise
        except StaleConnection as error:
            if fresh:
                raise failed(context, leg, target, error) from error
            fresh = True
            continue
        except EngineStreamError as error:
            connection.abandon(receiver)
            raise refused_in_stream(context, leg, target, error) from error
        except UpstreamError as error:
            connection.abandon(receiver)
            raise failed(context, leg, target, error) from error
        finally:
            if step is not None:
                step.status = receiver.status
        return receiver


async def _connected(context: Context, leg: str, target: Target) -> UpstreamConnection:
    """A new connection. Raises `LegFailed`."""
    try:
        return await target.pool.connect(context.settings.connect_timeout)
    except UpstreamError as error:
        raise failed(context, leg, target, error) from error


def _send(
    context: Context,
    target: Target,
    connection: UpstreamConnection,
    receiver: Receiver,
    buffers: Buffers,
    leg_id: bytes,
    path: bytes | None,
    headers: bytes,
    until: float | None,
) -> None:
    """Send a leg's request; see `exchange`."""
    if path is None:
        path = context.engine_path
        surface = context.view.surface
        if surface.names_answers:
            buffers = surface.named(context.view, buffers, leg_id, target.endpoint_id)
    context.leg_id = leg_id
    start = target.head_starts.get(path) or head_start(target, path)
    first = buffers[0]
    if len(buffers) == 1 and len(first) < _JOINED_BYTES:
        buffers = (_REQUEST % (start, leg_id, context.forwarded, headers, len(first), first),)
    else:
        buffers = (_REQUEST % (start, leg_id, context.forwarded, headers, sum(map(len, buffers)), b""), *buffers)
    settings = context.settings
    if until is not None:
        connection.send(buffers, receiver, first_byte_by=until, idle_seconds=settings.infer_timeout, whole_by=until)
        return
    connection.send(
        buffers,
        receiver,
        first_byte_by=monotonic() + settings.first_token_timeout,
        idle_seconds=settings.stream_idle_timeout,
        whole_by=context.whole_by,
    )


def content_came(context: Context, target: Target, connection: UpstreamConnection | None) -> None:
    """A stream's first content is here: from now on no silence may be longer than `stream_idle_timeout`."""
    services = context.services
    context.drop_body()
    if context.trail is not None:
        context.trail.content_came(connection)
    if context.choice is not None:
        context.choice.answered(target)
    if connection is not None:
        connection.idle_seconds = context.settings.stream_idle_timeout
        connection.whole_by = context.whole_by
    if services.circuits.tripped:
        services.circuits.answering(target)


async def whole_leg(
    context: Context,
    leg: str,
    target: Target,
    buffers: Buffers,
    leg_id: bytes,
    *,
    path: bytes | None = None,
    headers: bytes = b"",
    send_by: float | None = None,
    until: float | None = None,
    item: str = "",
) -> WholeReply:
    """A leg whose reply, of status 2xx, is wanted whole by `until`, or within `first_token_timeout`; see `exchange`.
    Raises `LegFailed`."""
    since = monotonic()
    if until is None:
        until = since + context.settings.first_token_timeout
        until = until if until < context.whole_by else context.whole_by
    make_reply = context.services.make_reply
    reply = await exchange(context, leg, target, buffers, leg_id, make_reply, path, headers, send_by, until, item)
    if context.trail is not None and context.trail.last_ended is not None:
        context.trail.last_ended.answer_bytes = len(reply.body)
    if not 200 <= reply.status < 300:
        raise refused(context, leg, target, reply.status, reply.body)
    leg_succeeded(context, leg, target, since)
    if context.choice is not None:
        context.choice.replied(target, reply.body)
    return reply


def leg_succeeded(context: Context, leg: str, target: Target, since: float, *, noted: bool = False) -> None:
    """A leg begun at `since` (`monotonic()`) ended well; `noted`: for `Server-Timing` it was noted before."""
    services = context.services
    if services.circuits.watched:
        services.circuits.succeeded(target)
    if context.choice is not None:
        context.choice.answered(target)
    now = monotonic()
    seconds = now - since
    instance = target.instance.name
    services.instruments.leg(leg, instance, seconds)
    if leg == _PREFILL:
        context.handed_over_at = now
    if noted:
        return
    if context.beside is not None:
        context.note_beside(leg)
    context.legs.append((leg, instance, seconds * 1000))
