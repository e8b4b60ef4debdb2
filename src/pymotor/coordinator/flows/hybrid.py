"""Encode if there is media, then one engine that does the rest: union, or what is left of a pair."""

from __future__ import annotations

from pymotor.coordinator.api.request_view import Fields, body_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import EncodedMedia, encode_media
from pymotor.coordinator.flows.last_leg import answer
from pymotor.coordinator.routing import Single
from pymotor.coordinator.scheduling.target import Reservation
from pymotor.fleet import Role

_LEG_NAMES = {Role.UNION: "union", Role.PREFILL: "prefill", Role.DECODE: "decode"}


async def hybrid(context: Context, single: Single) -> None:
    """Answer the request through one of `single`'s endpoints. Raises `LegFailed`, `ApiError`."""
    services = context.services
    view = context.view
    target = services.choose(single.targets, context.avoid)
    reservation = Reservation(target, view.prompt_tokens + view.answer_tokens, view.prompt_tokens)
    try:
        buffers = view.body
        if view.media:
            media = await encode_media(context, single.encoders, (target,))
            fields = reader_fields(context, media)
            if fields is not view.fields:
                buffers = body_of(fields)
        await answer(context, _LEG_NAMES[single.role], target, buffers, services.ids.next())
    finally:
        reservation.end()


def reader_fields(context: Context, media: EncodedMedia) -> Fields:
    """What the stage that reads embeddings gets: the media too, unless `forward_media` is `never`.

    With the media a lost item is encoded again; without it a lost item kills a vLLM 0.32 engine.
    """
    if context.services.settings.forward_media == "never":
        return media.fields_with_metadata()
    return context.view.fields
