"""Who gets each leg of a flow, and what it is charged with.

Choice and charge are one act: between them nobody else may be given the same idle endpoint.

| leg | work until it is done | work to the end | KV cache held |
|---|---|---|---|
| prefill | the prompt's tokens | | the prompt's, until decode has it |
| decode | | the answer expected | the prompt's and the answer's so far |
| union, or half a pair | the prompt's tokens, until the first content | the answer expected | as decode |

The answer expected is `max_tokens` where that is small; nobody reaches a large one. Where it is known that an endpoint
holds the beginning of the prompt, only the rest of it is work there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.scheduling.room import EXPECTED_ANSWER_TOKENS
from pymotor.coordinator.scheduling.target import Group, Reservation, Target

_NOBODY: frozenset[str] = frozenset()


def reserve_prefill(context: Context, group: Group) -> Reservation:
    """The prompt's work and, until decode has it, its KV cache."""
    tokens = context.view.prompt_tokens
    target = _choose(context, group)
    choice = context.choice
    return Reservation.on(target, tokens if choice is None else choice.work(target), tokens)


def reserve_decode(context: Context, group: Group) -> Reservation:
    """The prompt's KV cache and the answer's, which grows; of decode's KV cache so much is promised."""
    view = context.view
    room = context.services.admission.room
    needs_room = view.media or context.choice is not None
    target = _choose(context, group, room.without_kv(group, view) if needs_room else _NOBODY)
    promise, spare = room.promise(target, view)
    reservation = Reservation.on(
        target,
        0,
        view.prompt_tokens,
        answer_tokens=_expected_answer(context),
        kv_tokens=promise,
        spare_tokens=spare,
    )
    context.answering = reservation
    return reservation


def reserve_pair(context: Context, prefills: Group, decodes: Group) -> tuple[Reservation, Reservation]:
    """Both, or none when one cannot be had."""
    prefill = reserve_prefill(context, prefills)
    try:
        return prefill, reserve_decode(context, decodes)
    except BaseException:
        prefill.end()
        raise


def reserve_whole(context: Context, group: Group) -> Reservation:
    """Prompt and answer at one endpoint: union, or what is left of a pair."""
    tokens = context.view.prompt_tokens
    choice = context.choice
    if choice is not None:
        choice.begins_whole()
    target = _choose(context, group)
    work = tokens if choice is None else choice.work(target)
    reservation = Reservation.on(target, work, tokens, answer_tokens=_expected_answer(context))
    context.answering = reservation
    return reservation


def _choose(context: Context, group: Group, without_room: frozenset[str] = _NOBODY) -> Target:
    services = context.services
    if services.admission.limited:
        # The least loaded may have many small requests.
        without_room |= services.admission.room.full(group)
    failed = context.failed
    avoid = to_avoid(group, failed, without_room) if failed else without_room
    choice = context.choice
    target = services.choose(group, avoid) if choice is None else services.choose_by(choice, group, avoid)
    if context.trail is not None:
        context.trail.chose(services.ledger, group, target, avoid)
    return target


def to_avoid(group: Group, failed: Sequence[str], without_room: frozenset[str]) -> frozenset[str]:
    """Whom to leave out: those of the group that have no room and those that `failed`, the newest failure last. Where
    nobody would be left, of the latter only the newest: the others may be well again by now."""
    ids = [target.endpoint_id for target in group.targets]
    avoid = without_room.union(failed)
    if not avoid.issuperset(ids):
        return avoid
    newest = [one for one in failed if one in ids][-1:]
    avoid = without_room.union(newest)
    return without_room if avoid.issuperset(ids) else avoid


def _expected_answer(context: Context) -> int:
    view = context.view
    expected = view.answer_tokens
    return (expected if expected < EXPECTED_ANSWER_TOKENS else EXPECTED_ANSWER_TOKENS) * view.n
