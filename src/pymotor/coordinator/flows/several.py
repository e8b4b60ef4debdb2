"""One request that is several answers: n > 1, or several prompts.

A handoff joins one prompt on prefill with one answer on decode: asked for several, engines return the parameters of
the first only and answer the rest wrongly with status 200. So each prompt, and each of its n answers, goes through
prefill and decode by itself, and the answers become one response with the choices numbered as the client expects
(OpenAI: choice `prompt * n + k`).
"""

from __future__ import annotations

import asyncio
from itertools import count

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, invalid
from pymotor.coordinator.api.request_view import Fields, RequestView, body_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.last_leg import to_bytes
from pymotor.coordinator.flows.legs import LegFailed
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.flows.several_stream import MergedStream, PartStream, Usage
from pymotor.coordinator.flows.together import together
from pymotor.coordinator.flows.ways import run_way
from pymotor.coordinator.recovery.carrying_on import is_deterministic
from pymotor.coordinator.recovery.pauses import pause_before
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer, RepeatedAnswer
from pymotor.coordinator.routing import Pair

_LIMIT = 256
"""Answers in one request."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_fields_decoder = msgspec.json.Decoder(Fields)
_choices_decoder = msgspec.json.Decoder(list[Fields])
_usage_decoder = msgspec.json.Decoder(Usage | None)


def parts_of(view: RequestView) -> list[RequestView]:
    """The request as single ones, in the order of their choices. Raises `ApiError` (400) when they are too many."""
    prompts: list[msgspec.Raw | None] = [*view.prompts] or [None]
    if len(prompts) * view.n > _LIMIT:
        raise invalid(f"more than {_LIMIT} answers in one request", "n")
    return [_part(view, prompt, number, len(prompts)) for prompt in prompts for number in range(view.n)]


def _part(view: RequestView, prompt: msgspec.Raw | None, number: int, prompts: int) -> RequestView:
    fields = {name: raw for name, raw in view.fields.items() if name not in ("n", "best_of")}
    if prompt is not None:
        fields["prompt"] = prompt
    if number and "seed" in fields:
        seed = msgspec.json.decode(fields["seed"])
        if isinstance(seed, int):
            # vLLM gives the k-th of n answers the seed + k.
            fields["seed"] = msgspec.Raw(msgspec.json.encode(seed + number))
    part = RequestView(fields, body_of(fields), view.surface)
    part.model = view.model
    part.stream = view.stream
    part.prompt_tokens = view.prompt_tokens // prompts + 1
    part.answer_tokens = view.answer_tokens
    part.answer_limit = view.answer_limit
    part.media = view.media
    return part


async def several(context: Context, pair: Pair) -> None:
    """Answer the request as several single ones, all at once. Raises `LegFailed`, `ApiError`."""
    view = context.view
    parts = parts_of(view)
    if view.media:
        await encode_media(context, pair.encoders, ())
    if view.stream:
        await _streamed(context, pair, parts)
        return
    bodies = await together(context.services.loop, [run_way(context.for_part(part), pair, to_bytes) for part in parts])
    merged = msgspec.json.encode(merge(view, bodies))
    context.note_commit()
    context.status = 200
    heads = context.services.heads
    context.client.respond(heads.whole(context.request, 200, JSON, len(merged), context.legs), merged)


async def _streamed(context: Context, pair: Pair, parts: list[RequestView]) -> None:
    options = context.view.fields.get("stream_options", msgspec.Raw(b"null"))
    try:
        wants_usage = bool((msgspec.json.decode(options, type=_StreamOptions | None) or _StreamOptions()).include_usage)
    except UNREADABLE as error:
        raise invalid("stream_options must be an object", "stream_options") from error
    merged = MergedStream(context, wants_usage)
    work = [_stream_part(context, pair, part, merged, position) for position, part in enumerate(parts)]
    try:
        await together(context.services.loop, work)
    except LegFailed as failure:
        if not merged.begun:
            raise
        merged.break_off(failure)
    else:
        merged.end(context.view.n)


async def _stream_part(context: Context, pair: Pair, part: RequestView, merged: MergedStream, position: int) -> None:
    """One answer's part of the merged stream. After the client has been sent something, a part that breaks off is
    asked for again if it comes out the same; see `recovery.repeated_answer`. Raises `LegFailed`, `ApiError`."""
    settings = context.services.settings
    tries = settings.recompute_max_retry if settings.recompute_enabled and is_deterministic(part.fields) else 0
    kept = RepeatableAnswer(usage_wanted=merged.wants_usage) if tries else None
    repeated: RepeatedAnswer | None = None
    avoid = context.avoid
    for number in count():
        piece = context.for_part(part)
        piece.avoid = avoid
        try:
            await run_way(piece, pair, PartStream(merged, position, kept, repeated))
        except LegFailed as failure:
            if kept is None or not merged.begun or failure.clients_fault:
                raise
            if kept.finished:
                return
            kept.rewind()
            if kept.impossible or number >= tries:
                raise
            avoid |= {failure.target.endpoint_id}
            context.services.instruments.carried_on.child("carried_on").value += 1
            await asyncio.sleep(pause_before(settings.retry_delay, number))
            repeated = RepeatedAnswer(kept)
        else:
            return


def merge(view: RequestView, bodies: list[bytes]) -> Fields:
    """One response of several: the first's fields, all choices numbered, the usage added up (a prompt counts once,
    however many answers it got)."""
    replies = [_fields_decoder.decode(body) for body in bodies]
    choices: list[Fields] = []
    prompt_tokens = completion_tokens = 0
    for position, reply in enumerate(replies):
        for choice in _choices_decoder.decode(reply["choices"]):
            choice["index"] = msgspec.Raw(b"%d" % position)
            choices.append(choice)
        usage = _usage_decoder.decode(reply.get("usage", msgspec.Raw(b"null"))) or Usage()
        completion_tokens += usage.completion_tokens
        if position % view.n == 0:
            prompt_tokens += usage.prompt_tokens
    merged = dict(replies[0])
    merged["choices"] = msgspec.Raw(msgspec.json.encode(choices))
    merged["usage"] = msgspec.Raw(
        msgspec.json.encode(
            {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            }
        )
    )
    return merged
