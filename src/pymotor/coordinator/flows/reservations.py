"""Who gets each leg of a flow, and what it is charged with.

Choice and charge are one act: between them nobody else may be given the same idle endpoint.

| leg | work until it is done | work to the end | KV cache held |
|---|---|---|---|
| prefill | the prompt's tokens | | the prompt's, until decode has it |
| decode | | the answer expected | the prompt's and the answer's so far |
| union, or half a pair | the prompt's tokens, until the first content | the answer expected | as decode |

The answer expected is `max_tokens` where that is small; nobody reaches a large one.
"""

from __future__ import annotations

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.scheduling.room import EXPECTED_ANSWER_TOKENS
from pymotor.coordinator.scheduling.target import Group, Reservation, Target


def reserve_prefill(context: Context, group: Group) -> Reservation:
    """The prompt's work and, until decode has it, its KV cache."""
    tokens = context.view.prompt_tokens
    return Reservation(_choose(context, group, context.avoid), tokens, tokens)


def reserve_decode(context: Context, group: Group) -> Reservation:
    """The prompt's KV cache and the answer's, which grows; of decode's KV cache so much is promised."""
    view = context.view
    room = context.services.admission.room
    avoid = context.avoid
    if view.media:
        avoid |= room.without_kv(group, view)
    target = _choose(context, group, avoid)
    promise, spare = room.promise(target, view)
    reservation = Reservation(
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
    target = _choose(context, group, context.avoid)
    reservation = Reservation(target, tokens, tokens, answer_tokens=_expected_answer(context))
    context.answering = reservation
    return reservation


def _choose(context: Context, group: Group, avoid: frozenset[str]) -> Target:
    services = context.services
    if services.admission.limited:
        # The least loaded may have many small requests.
        avoid |= services.admission.room.full(group)
    return services.choose(group, avoid)


def _expected_answer(context: Context) -> int:
    view = context.view
    return min(view.answer_tokens, EXPECTED_ANSWER_TOKENS) * view.n
