"""Who gets each leg of a flow, and what it is charged with.

Choice and charge are one act: between them nobody else may be given the same idle endpoint.
"""

from __future__ import annotations

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.scheduling.target import Group, Reservation


def reserve_prefill(context: Context, group: Group) -> Reservation:
    """The prompt's work and, until decode has it, its KV cache."""
    tokens = context.view.prompt_tokens
    return Reservation(context.services.choose(group, context.avoid), tokens, tokens)


def reserve_decode(context: Context, group: Group) -> Reservation:
    """The prompt's KV cache and the answer."""
    view = context.view
    return Reservation(context.services.choose(group, context.avoid), view.prompt_tokens + view.answer_tokens)


def reserve_whole(context: Context, group: Group) -> Reservation:
    """Prompt and answer at one endpoint: union, or what is left of a pair."""
    view = context.view
    target = context.services.choose(group, context.avoid)
    return Reservation(target, view.prompt_tokens + view.answer_tokens, view.prompt_tokens)
