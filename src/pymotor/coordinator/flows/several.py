"""One request that is several answers: n > 1, or several prompts.

A handoff joins one prompt on prefill with one answer on decode: asked for several, engines return the parameters of
the first only and answer the rest wrongly with status 200. So each prompt, and each of its n answers, is a pull of
its own, and the answers become one response with the choices numbered as the client expects (OpenAI: choice
`prompt * n + k`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from pymotor.coordinator.api.errors import invalid
from pymotor.coordinator.api.request_view import Fields, RequestView, body_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.pull import pull, to_bytes
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.routing import Pair

_LIMIT = 256
"""Answers in one request."""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Choice(msgspec.Struct):
    index: int = 0


_fields_decoder = msgspec.json.Decoder(Fields)
_choices_decoder = msgspec.json.Decoder(list[Fields])
_usage_decoder = msgspec.json.Decoder(_Usage | None)


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
    fields["stream"] = msgspec.Raw(b"false")
    fields.pop("stream_options", None)
    part = RequestView(fields, body_of(fields), view.chat)
    part.model = view.model
    part.prompt_tokens = view.prompt_tokens // prompts + 1
    part.answer_tokens = view.answer_tokens
    part.media = view.media
    return part


async def several(context: Context, pair: Pair) -> None:
    """Answer the request as several pulls, all at once. Raises `LegFailed`, `ApiError`."""
    view = context.view
    parts = parts_of(view)
    async with _together(context, pair, parts) as bodies:
        merged = merge(view, bodies)
    context.note_commit()
    context.status = 200
    client, request, heads = context.client, context.request, context.services.heads
    if view.stream:
        _stream(context, merged)
        return
    body = msgspec.json.encode(merged)
    client.respond(heads.whole(request, 200, JSON, len(body), context.legs), body)


@asynccontextmanager
async def _together(context: Context, pair: Pair, parts: list[RequestView]) -> AsyncIterator[list[bytes]]:
    """The bodies of all parts; when one fails or the request ends, the others' legs are closed."""
    tasks = [context.services.loop.create_task(pull(context.for_part(part), pair, to_bytes)) for part in parts]
    try:
        yield await asyncio.gather(*tasks)
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)


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
        usage = _usage_decoder.decode(reply.get("usage", msgspec.Raw(b"null"))) or _Usage()
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


def _stream(context: Context, merged: Fields) -> None:
    """The merged answer as events: for each choice its content, then its finish, as a stream of vLLM's has them."""
    events = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in _events(context.view, merged))
    heads = context.services.heads
    head = heads.stream(context.request, b"text/event-stream; charset=utf-8", context.legs)
    client = context.client
    last = events + b"data: [DONE]\n\n"
    if context.request.http_11:
        client.begin_stream(head, b"")
        client.end_stream(last)
    else:
        context.request.keep_alive = False
        client.respond(head, last)


def _events(view: RequestView, merged: Fields) -> list[Fields]:
    shared: Fields = {}
    for name in ("id", "created", "model"):
        if name in merged:
            shared[name] = merged[name]
    shared["object"] = msgspec.Raw(b'"chat.completion.chunk"' if view.chat else b'"text_completion"')
    events: list[Fields] = []
    for choice in _choices_decoder.decode(merged["choices"]):
        if view.chat:
            choice["delta"] = _delta(choice.pop("message"))
        events.append({**shared, "choices": msgspec.Raw(msgspec.json.encode([choice]))})
    options = msgspec.json.decode(view.fields.get("stream_options", msgspec.Raw(b"null")))
    if isinstance(options, dict) and options.get("include_usage"):
        events.append({**shared, "choices": msgspec.Raw(b"[]"), "usage": merged["usage"]})
    return events


def _delta(message: msgspec.Raw) -> msgspec.Raw:
    """A message as the delta that says it all; tool calls in a delta are numbered."""
    fields = _fields_decoder.decode(message)
    calls = msgspec.json.decode(fields.get("tool_calls", msgspec.Raw(b"null")))
    if not isinstance(calls, list):
        return message
    numbered = [{"index": index, **call} for index, call in enumerate(calls)]
    return msgspec.Raw(msgspec.json.encode({**fields, "tool_calls": numbered}))
