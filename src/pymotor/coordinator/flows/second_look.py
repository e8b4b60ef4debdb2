"""What endpoints hold of a prompt is looked at again for a request that has waited in the line.

What was found out before the wait may be a minute old when the request is let through, and those before it in the line
may have brought its very beginning somewhere. So its own policy looks again, while the places that it was let through
to are kept for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from pymotor.coordinator.affinity.choices import Choice
from pymotor.coordinator.affinity.placement import Placement
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.ways import choose_way
from pymotor.coordinator.routing import Pair, Routes, Single
from pymotor.coordinator.scheduling.target import Group, Reservation

STALE_SECONDS = 0.25
"""Of waiting, from which on it is worth asking again."""


async def look_again(
    context: Context, placement: Placement, choice: Choice, way: Pair | Single, routes: Callable[[], Routes]
) -> Pair | Single:
    """The way of a request that was just let through on `way`, by what `choice` has found out anew: what the request
    needs there is to be reserved before anything else is awaited. Raises `ApiError`."""
    with contextlib.ExitStack() as places:
        _keep_places(context, way, places)
        await placement.look_again(choice, context.view, routes)
    now = routes()
    found = choose_way(context, now)
    if context.services.admission.fits(context, found):
        return found
    # There is room on the former one, where places were kept, unless the fleet has changed meanwhile.
    return way if way in (*now.pairs, *now.singles, *now.leftovers) else found


def _keep_places(context: Context, way: Pair | Single, places: contextlib.ExitStack) -> None:
    """A place for each answer at each stage, which nobody who waits or comes can take until `places` ends."""
    if isinstance(way, Single):
        places.callback(_place_in(context, way.targets).end)
        return
    for _ in range(context.view.n):
        places.callback(_place_in(context, way.prefills).end)
        places.callback(_place_in(context, way.decodes, keeps_kv=True).end)


def _place_in(context: Context, group: Group, *, keeps_kv: bool = False) -> Reservation:
    room, view = context.services.admission.room, context.view
    without_room = room.full(group)
    if not keeps_kv:
        return Reservation.on(context.services.peek(group, context.spared() | without_room), 0)
    target = context.services.peek(group, context.spared() | without_room | room.without_kv(group, view))
    return Reservation.on(target, 0, kv_tokens=room.promise(target, view)[0])
