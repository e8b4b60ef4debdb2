"""Encode if there is media, then one engine that does the rest: union, or what is left of a pair."""

from __future__ import annotations

from pymotor.coordinator.api.request_view import Fields, body_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import EncodedMedia, encode_media
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.reservations import reserve_whole
from pymotor.coordinator.routing import Single
from pymotor.fleet import Role

_LEG_NAMES = {Role.UNION: "union", Role.PREFILL: "prefill", Role.DECODE: "decode"}


async def hybrid(context: Context, single: Single, finish: Finish[Result]) -> Result:
    """Send the request to one of `single`'s endpoints; `finish` runs that leg and its result is the result.

    Raises `LegFailed`, `ApiError`.
    """
    services = context.services
    view = context.view
    reservation = reserve_whole(context, single.targets)
    target = reservation.target
    try:
        buffers = view.body
        if view.media:
            media = await encode_media(context, single.encoders, (target,))
            fields = reader_fields(context, media)
            if fields is not view.fields:
                buffers = body_of(fields)
        return await finish(context, _LEG_NAMES[single.role], target, buffers, services.ids.next(), None, None)
    finally:
        reservation.end()


def reader_fields(context: Context, media: EncodedMedia) -> Fields:
    """What the stage that reads embeddings gets: the media too, unless `forward_media` is `never`.

    With the media a lost item is encoded again; without it a lost item kills a vLLM 0.32 engine.
    """
    if context.services.settings.forward_media == "never":
        return media.fields_with_metadata()
    return context.view.fields
