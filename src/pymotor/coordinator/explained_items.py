"""Why each media item of a request would go to its encoder: the encode legs of an explanation."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

import numpy as np
import numpy.typing as npt

from pymotor.coordinator.affinity.explanation import ABOVE_BOUND, EndpointFigures, LegFigures
from pymotor.coordinator.api.media import MediaItem, check_source
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.encode import distinct_media, item_key, may_be_in_store
from pymotor.coordinator.flows.encode_leg import ENCODE
from pymotor.coordinator.flows.services import Services
from pymotor.coordinator.routing import Encoders, Pair, Routes, Single
from pymotor.coordinator.scheduling.encoder_choice import EncoderLook, NoEncoderLeft
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN


def explain_items(services: Services, view: RequestView, routes: Routes, authorization: bytes) -> list[LegFigures]:
    """A leg for each item that differs, at each group of encoders that the request could go by; nothing is sent.
    `authorization` is the client's. Raises `ApiError` for a source that may not be used."""
    forwarded = authorization if services.settings.forward_authorization else b""
    return [leg for encoders in _encoders(routes) for leg in _legs(services, view, encoders, forwarded)]


def _encoders(routes: Routes) -> Iterable[Encoders]:
    """Each group once, though several pairs may be served by the same endpoints."""
    ways: tuple[Pair | Single, ...] = (*routes.pairs, *routes.singles, *routes.leftovers)
    found = [way.encoders for way in ways if way.encoders is not None]
    return {tuple(target.endpoint_id for target in one.group.targets): one for one in found}.values()


def _legs(services: Services, view: RequestView, encoders: Encoders, authorization: bytes) -> list[LegFigures]:
    items, place = distinct_media(view.media)
    # The items of one request go out side by side: each finds those before it at their encoders.
    more = np.zeros(len(encoders.group), dtype=np.int64)
    legs = []
    for index, item in enumerate(items):
        number = place.index(index)
        known = None
        if may_be_in_store(encoders, item, services.settings):
            known = services.encodings.known(item_key(view, authorization, encoders, item), item.meaning)
        if known is not None:
            note = f"{known.encoder} encoded it a moment ago, and the store still has it: it is not encoded again"
            legs.append(LegFigures(role=ENCODE, by="store", highest_load=None, endpoints=[], item=number, note=note))
            continue
        legs.append(_leg(services, encoders, item, number, more))
    return legs


def _leg(
    services: Services, encoders: Encoders, item: MediaItem, number: int, more: npt.NDArray[np.int64]
) -> LegFigures:
    """Adds to `more` what the item costs its encoder."""
    group = encoders.group
    closed = services.closed.ids
    avoided = services.circuits.barred(monotonic()) if services.circuits.tripped else frozenset[str]()
    if services.admission.limited:
        avoided |= services.admission.room.full(group)
    load = item.tokens * TENTHS_PER_ACTIVE_TOKEN
    try:
        look = encoders.choice.look(item.key, load, closed, avoided, more)
    except NoEncoderLeft:
        note = "no encoder takes anything new now"
        return LegFigures(role=ENCODE, by="item", highest_load=None, endpoints=[], item=number, note=note)
    chosen = group.targets[look.chosen]
    check_source(item, chosen.instance.allowed_local_media_path)
    more[look.chosen] += load
    all_avoided = all(target.endpoint_id in avoided | closed for target in group.targets)
    passed_over = dict.fromkeys(closed, "it gets nothing new any more")
    if not all_avoided:
        passed_over = dict.fromkeys(avoided, "its circuit is open, or it is full") | passed_over
    return LegFigures(
        role=ENCODE,
        by="item",
        highest_load=look.highest_load / TENTHS_PER_ACTIVE_TOKEN,
        endpoints=[
            _endpoint(target.endpoint_id, look, index, passed_over) for index, target in enumerate(group.targets)
        ],
        item=number,
    )


def _endpoint(endpoint_id: str, look: EncoderLook, index: int, passed_over: dict[str, str]) -> EndpointFigures:
    load = int(look.loads[index])
    above = ABOVE_BOUND if load > look.highest_load else ""
    return EndpointFigures(
        endpoint=endpoint_id,
        chosen=index == look.chosen,
        load=load / TENTHS_PER_ACTIVE_TOKEN,
        place=int(look.places[index]) + 1,
        excluded=passed_over.get(endpoint_id, above),
    )
