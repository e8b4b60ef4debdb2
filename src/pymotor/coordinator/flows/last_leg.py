"""The leg whose reply is the client's answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.finish_reasons import finish_reasons
from pymotor.coordinator.flows.comparing_relay import ComparingKeepingRelay, ComparingRelay
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.keeping_relay import KeepingRelay
from pymotor.coordinator.flows.leg_failures import gave_up, refused
from pymotor.coordinator.flows.legs import Buffers, exchange, leg_succeeded, whole_leg
from pymotor.coordinator.flows.relay import Relay
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.limits.usage import usage_in
from pymotor.coordinator.recovery.answer_so_far import body_without_token_ids
from pymotor.coordinator.recovery.carrying_on import usage_comes_last
from pymotor.coordinator.recovery.recomputed import MARK, gives_up
from pymotor.coordinator.scheduling.target import Held, Reservation, Target

Result = TypeVar("Result")
FirstContent = Reservation | Held | None
"""What the first content ends: prefill's reservation or its being held, since its KV cache has been fetched then, and
encoders' being held likewise."""
Finish = Callable[[Context, str, Target, Buffers, bytes, FirstContent, "float | None"], Awaitable[Result]]
"""Runs a request's last leg: the leg's name, endpoint, body and id, what is to be ended with the first content, and the
`monotonic()` time by which the request must have been sent. `answer` is the one whose reply is the client's answer."""

_HEAD_START = 2.0
_HANDOFF_KEYS = ("kv_transfer_params", "ec_transfer_params")


async def answer(
    context: Context,
    leg: str,
    target: Target,
    buffers: Buffers,
    leg_id: bytes,
    first_content: Reservation | Held | None,
    send_by: float | None,
) -> None:
    """Send the request and bring its reply to the client, streamed or whole.

    `first_content` is ended with the first content; by `send_by` the request must have been sent. Raises
    `LegFailed` as long as the client has been sent nothing.
    """
    context.sending = buffers
    if context.view.stream:
        await _streamed(context, leg, target, buffers, leg_id, first_content, send_by)
        return
    reply = await whole_leg(context, leg, target, buffers, leg_id, send_by=send_by, until=_due(context))
    _take(context, leg, target, reply, first_content)
    body = _without_handoff(reply.body)
    note_answer(context, body)
    context.note_commit()
    context.status = reply.status
    context.answer_bytes = len(body)
    content_type = reply.header(b"content-type") or JSON
    heads = context.services.heads
    context.client.respond(
        heads.whole(context.request, reply.status, content_type, len(body), context.legs),
        body,
    )


async def to_bytes(
    context: Context,
    leg: str,
    target: Target,
    buffers: Buffers,
    leg_id: bytes,
    first_content: Reservation | Held | None,
    send_by: float | None,
) -> bytes:
    """A `Finish` that returns the whole reply's body. Raises `LegFailed`."""
    reply = await whole_leg(context, leg, target, buffers, leg_id, send_by=send_by, until=_due(context))
    _take(context, leg, target, reply, first_content)
    return reply.body


def _take(context: Context, leg: str, target: Target, reply: WholeReply, first_content: FirstContent) -> None:
    """The whole answer is here. Raises `LegFailed` where it says that it is none."""
    if reply.body.find(MARK) >= 0 and gives_up(reply.body, context.view.fields):
        raise gave_up(context, leg, target)
    if first_content is not None:
        first_content.end()


def _due(context: Context) -> float:
    """When a whole answer has to be there, as `monotonic()` time: it says nothing until then, so only its length tells
    an engine that hangs from one that generates."""
    view = context.view
    seconds = context.settings.output_token_timeout
    # Nobody knows how long tools take that an engine runs itself.
    if not seconds or view.answer_limit is None or view.alone or not view.surface.staged:
        return context.whole_by
    # An engine may generate several answers one after the other.
    tokens = view.answer_limit * view.n * (len(view.prompts) or 1)
    due = monotonic() + patience(context) + tokens * seconds
    return due if due < context.whole_by else context.whole_by


async def _streamed(
    context: Context,
    leg: str,
    target: Target,
    buffers: Buffers,
    leg_id: bytes,
    first_content: Reservation | Held | None,
    send_by: float | None,
) -> None:
    since = monotonic()
    so_far = context.so_far
    choice = context.choice
    compares = choice is not None and choice.compares(target) and usage_comes_last(context.view)

    def make_relay() -> Relay:
        if so_far is not None:
            keeping = ComparingKeepingRelay if compares else KeepingRelay
            return keeping(context, leg, target, first_content, so_far)
        return (ComparingRelay if compares else Relay)(context, leg, target, first_content)

    relay = await exchange(
        context,
        leg,
        target,
        buffers,
        leg_id,
        make_relay,
        send_by=send_by,
        until=min(context.whole_by, since + patience(context)),
    )
    if relay.body is not None:
        _answer_whole(context, leg, target, relay, since, first_content)
    elif context.status == 200:
        leg_succeeded(context, leg, target, since, noted=True)


def patience(context: Context) -> float:
    """Seconds until the first content; a little more where it waits for another leg, whose failure is then
    noticed first."""
    seconds = context.settings.first_token_timeout
    return seconds if context.beside is None else seconds + _HEAD_START


def _answer_whole(
    context: Context, leg: str, target: Target, relay: Relay, since: float, first_content: Reservation | Held | None
) -> None:
    """A stream was asked for and something else came: an error, or JSON."""
    body = b"".join(relay.body or ())
    if not 200 <= relay.status < 300:
        raise refused(context, leg, target, relay.status, body)
    if MARK in body and gives_up(body, context.view.fields):
        raise gave_up(context, leg, target)
    if first_content is not None:
        first_content.end()
    leg_succeeded(context, leg, target, since)
    if context.so_far is not None and not context.so_far.shows_ids:
        body = body_without_token_ids(body)
    note_answer(context, body)
    context.status = relay.status
    if context.opened:
        context.begin_stream(JSON, b"data: " + body.replace(b"\n", b"") + b"\n\n")
        context.end_stream(context.view.surface.closing or b"")
        return
    context.note_commit()
    heads = context.services.heads
    context.client.respond(
        heads.whole(context.request, relay.status, relay.content_type or JSON, len(body), context.legs), body
    )


def note_answer(context: Context, body: bytes) -> None:
    """What a whole answer says of itself, for those that want to know."""
    trail = context.trail
    if trail is not None:
        trail.finish_reasons = finish_reasons(body)
    if trail is not None or context.services.counts_usage:
        context.usage = usage_in(body)


def _without_handoff(body: bytes) -> bytes:
    """The reply without transfer parameters: they name blocks and addresses inside the fleet."""
    if body.find(b'_transfer_params":{') < 0:
        return body
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return body
    for key in _HANDOFF_KEYS:
        if key in fields:
            fields[key] = msgspec.Raw(b"null")
    return msgspec.json.encode(fields)
