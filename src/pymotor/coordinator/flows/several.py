"""One request that is several answers: n > 1, or several prompts.

A handoff joins one prompt on prefill with one answer on decode: asked for several, engines return the parameters of
the first only and answer the rest wrongly with status 200. So each prompt, and each of its n answers, goes through
prefill and decode by itself, and the answers become one response with the choices numbered as the client expects
(OpenAI: choice `prompt * n + k`).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError, invalid
from pymotor.coordinator.api.request_view import Fields, RequestView, view_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.last_leg import answer, note_answer, to_bytes
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.flows.several_parts import Part
from pymotor.coordinator.flows.several_stream import MergedStream, Usage
from pymotor.coordinator.flows.together import together
from pymotor.coordinator.flows.ways import choose_way, run_way
from pymotor.coordinator.routing import Pair, Routes

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
    part = view_of(fields, view.surface)
    part.model = view.model
    part.stream = view.stream
    part.prompt_tokens = view.prompt_tokens // prompts + 1
    part.answer_tokens = view.answer_tokens
    part.answer_limit = view.answer_limit
    part.media = view.media
    part.contents = view.contents
    return part


async def several(context: Context, pair: Pair, routes: Callable[[], Routes]) -> None:
    """Answer the request as several single ones, all at once; `routes` are for the further tries of one of them while
    the others go on. Raises `LegFailed`, `ApiError`, and once a stream has begun neither."""
    view = context.view
    parts = parts_of(view)
    if view.media:
        await encode_media(context, pair.encoders, ())
        # Nothing was reserved meanwhile, so that the pair may be closed by now.
        way = choose_way(context, routes())
        if not isinstance(way, Pair):
            await run_way(context, way, answer)
            return
        pair = way
    if view.stream:
        await _streamed(context, pair, parts, routes)
        return
    bodies = await together(context.services.loop, [run_way(context.for_part(part), pair, to_bytes) for part in parts])
    merged = msgspec.json.encode(merge(view, bodies))
    note_answer(context, merged)
    context.note_commit()
    context.status = 200
    heads = context.services.heads
    context.client.respond(heads.whole(context.request, 200, JSON, len(merged), context.legs), merged)


async def _streamed(context: Context, pair: Pair, views: list[RequestView], routes: Callable[[], Routes]) -> None:
    options = context.view.fields.get("stream_options", msgspec.Raw(b"null"))
    try:
        wants_usage = bool((msgspec.json.decode(options, type=_StreamOptions | None) or _StreamOptions()).include_usage)
    except UNREADABLE as error:
        raise invalid("stream_options must be an object", "stream_options") from error
    merged = MergedStream(context, len(views), wants_usage)
    parts = [Part(context, merged, view, position, routes) for position, view in enumerate(views)]
    # What an answer is asked for with again is a part of the client's body, which then counts to the end.
    context.repeats = context.repeats or any(part.repeats for part in parts)
    try:
        await together(context.services.loop, [part.run(pair) for part in parts])
    except (LegFailed, ApiError) as failure:
        if not merged.begun:
            raise
        merged.break_off(failure if isinstance(failure, ApiError) else failure.as_api_error())
    else:
        merged.end(context.view.n)


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
