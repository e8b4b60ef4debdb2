"""Encode if there is media, then one engine that does the rest: union, or what is left of a pair."""

from __future__ import annotations

from pymotor.coordinator.api.request_view import assemble, body_of
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.legs import Buffers
from pymotor.coordinator.flows.reservations import reserve_whole
from pymotor.coordinator.routing import Single
from pymotor.fleet import Role

_LEG_NAMES = {Role.UNION: "union", Role.PREFILL: "prefill", Role.DECODE: "decode"}
_REPLACED = frozenset(("ec_transfer_params",))


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
            buffers = _with_encoded(context, media)
        return await finish(
            context, _LEG_NAMES[single.role], target, buffers, services.ids.next(), context.fetching, None
        )
    finally:
        if context.fetching is not None:
            context.note_fetched()
        reservation.end()


def _with_encoded(context: Context, media: EncodedMedia) -> Buffers:
    view = context.view
    fields = media.reader_fields()
    members = media.reader_members()
    if members:
        return assemble(fields, members, _REPLACED, view.size)
    return view.body if fields is view.fields else body_of(fields)
