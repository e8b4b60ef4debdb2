"""Which way a request takes, and the flow that goes it.

| fleet | way |
|---|---|
| U | U |
| P, D | P and D by their dialect |
| U beside P, D | short prompts and n > 1 to U, long prompts to P and D; either when the other is gone |
| P alone, D alone | that one, as U |

Encoders come first in each of them when the request has media. `routing` knows which pairs there are: those of an old
and a new engine version stand beside each other, and a request stays within one.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from pymotor.coordinator.affinity.choices import Choice
from pymotor.coordinator.api.errors import ServiceUnavailable
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.callback import LARGEST_BATCH, callback
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.hybrid import hybrid
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.paired import paired
from pymotor.coordinator.flows.pull import pull
from pymotor.coordinator.routing import Pair, Routes, Single
from pymotor.coordinator.scheduling.target import Group
from pymotor.fleet import KVDialect


def choose_way(context: Context, routes: Routes) -> Pair | Single:
    """The pair or single group this request goes to. Raises `ServiceUnavailable`."""
    pairs, singles = routes.pairs, routes.singles
    if pairs and singles:
        view = context.view
        short = view.prompt_tokens < context.settings.prefill_threshold
        if short or view.n > 1:
            pairs = ()
    if context.without_decode:
        pairs = ()
    if pairs:
        return pairs[0] if len(pairs) == 1 else _best_pair(context, pairs)
    if singles:
        return singles[0] if len(singles) == 1 else _best_single(context, singles)
    if routes.leftovers:
        return _best_single(context, routes.leftovers)
    raise ServiceUnavailable("no engine can take the request now")


def _best_pair(context: Context, pairs: tuple[Pair, ...]) -> Pair:
    """By the request's own policy among those whose decode endpoints have not all failed it, else by load."""
    choice = context.choice
    if choice is not None:
        able = [pair for pair in pairs if not _spent(context, pair.decodes)[0]]
        admission = context.services.admission
        if admission.limited:
            spared = context.spared()
            able = [pair for pair in able if admission.room.has_places(pair.decodes, 1, spared)] or able
        found = _group_by(choice, context, [pair.prefills for pair in able])
        if found is not None:
            return able[found]
    in_turn = _in_turn(context, [pair.prefills for pair in pairs])
    return min(
        (pairs[number] for number in in_turn),
        key=lambda pair: (_spent(context, pair.decodes)[0], _spent(context, pair.prefills)),
    )


def _best_single(context: Context, singles: tuple[Single, ...]) -> Single:
    if context.choice is not None:
        found = _group_by(context.choice, context, [single.targets for single in singles])
        if found is not None:
            return singles[found]
    in_turn = _in_turn(context, [single.targets for single in singles])
    return min((singles[number] for number in in_turn), key=lambda single: _spent(context, single.targets))


def _group_by(choice: Choice, context: Context, groups: Sequence[Group]) -> int | None:
    """The index of the group that has the best endpoint by the request's own policy; one that is full counts only where
    all are."""
    admission = context.services.admission
    spared = context.spared()
    if admission.limited:
        # Within a group the leg passes over them too: the request would wait for a place that it does not need.
        full = spared.union(*(admission.room.full(group) for group in groups))
        found = choice.best_group(groups, full, _turn(context))
        if found is not None:
            return found
    return choice.best_group(groups, spared, _turn(context))


def _in_turn(context: Context, groups: Sequence[Group]) -> Sequence[int]:
    """The groups' indices, that one's first whose endpoint has the turn: a group has as many turns as endpoints."""
    place = _turn(context) % sum(map(len, groups))
    first = 0
    while place >= len(groups[first]):
        place -= len(groups[first])
        first += 1
    return (*range(first, len(groups)), *range(first))


def _turn(context: Context) -> int:
    if not context.turn:
        services = context.services
        services.turns += 1
        context.turn = services.turns
    return context.turn


def _spent(context: Context, group: Group) -> tuple[bool, int]:
    """Whether all of a group have failed this request, and the load of the one that would get it."""
    target = context.services.peek(group, context.avoid)
    return target.endpoint_id in context.avoid, context.services.ledger.load(target.row)


def run_way(context: Context, way: Pair | Single, finish: Finish[Result]) -> Coroutine[Any, Any, Result]:
    """One answer to one prompt by the flow that fits; `finish` runs the last leg. What it returns raises `LegFailed`,
    `ApiError`."""
    if isinstance(way, Single):
        return hybrid(context, way, finish)
    if way.dialect is KVDialect.CALLBACK:
        return callback(context, way, finish)
    if way.dialect is KVDialect.PAIRED:
        return paired(context, way, finish)
    return pull(context, way, finish)


def is_several(view: RequestView, way: Pair | Single) -> bool:
    """Whether the request has to be sent as several: engines hand over one prompt for one answer, but for several
    prompts in a callback (`batch_kv_transfer_params`) or with a list of rooms."""
    if isinstance(way, Single):
        return False
    if view.n > 1:
        return True
    if way.dialect is KVDialect.CALLBACK:
        return len(view.prompts) > LARGEST_BATCH
    return bool(view.prompts) and not way.joins_by_room
