"""When a request is tried again, and how often."""

from __future__ import annotations

from collections.abc import Callable

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.flows.carry_on import carry_on
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import doubt_encodings
from pymotor.coordinator.flows.encode_leg import ENCODE
from pymotor.coordinator.flows.last_leg import answer
from pymotor.coordinator.flows.legs import LegFailed
from pymotor.coordinator.flows.several import several
from pymotor.coordinator.flows.trying_again import pause_before_try
from pymotor.coordinator.flows.ways import choose_way, is_several, run_way
from pymotor.coordinator.recovery.carrying_on import keep_answer
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer
from pymotor.coordinator.recovery.tries import Tries
from pymotor.coordinator.routing import Pair, Routes
from pymotor.coordinator.trail import PLACEMENT, QUEUE


async def dispatch(context: Context, routes: Callable[[], Routes]) -> None:
    """Answer the request, trying again and carrying on where a failure allows it; `routes` are asked for at each try,
    since the fleet may have changed. Raises `ApiError`, and `LegFailed` for a reply of an engine that the client is
    to see."""
    services = context.services
    services.retry_budget.requests += 1
    trail = context.trail
    placing = None if trail is None else trail.begin_wait(PLACEMENT, context.started_at)
    if services.placement is not None:
        context.choice = await services.placement.choice(context.view, context.request.headers, routes)
    elif services.tokenizer is not None:
        await services.tokenizer.count(context.view)
    if placing is not None:
        placing.end()
    if context.settings.recompute_enabled:
        context.so_far = keep_answer(context.view)
    context.keep_body()
    if isinstance(context.so_far, RepeatableAnswer):
        context.repeats = context.kept
        if not context.kept:
            context.so_far = None
    try:
        await _until_answered(context, routes)
    finally:
        context.uncount_body()


async def _until_answered(context: Context, routes: Callable[[], Routes]) -> None:
    services = context.services
    admission = services.admission
    tries: Tries | None = None
    trail = context.trail
    while True:
        waiting = None if trail is None else trail.begin_wait(QUEUE)
        try:
            if admission.limited or context.view.media:
                way = await admission.admit(context, lambda: choose_way(context, routes()))
            else:
                way = choose_way(context, routes())
        finally:
            if waiting is not None:
                waiting.end()
        try:
            if isinstance(way, Pair) and is_several(context.view, way):
                await several(context, way, routes)
            else:
                await run_way(context, way, answer)
        except LegFailed as failure:
            doubt_encodings(context, failure)
            if context.committed and context.so_far is not None:
                await carry_on(context, context.so_far, routes, failure)
                return
            if failure.clients_fault or context.committed:
                raise
            tries = tries or Tries(context.settings)
            await pause_before_try(context, failure, tries)
            context.spare(failure.target.endpoint_id)
            context.handed_over_at = 0.0
            context.legs[:] = [noted for noted in context.legs if noted[0] == ENCODE]
            if context.so_far is not None:
                context.so_far = context.so_far.anew()
        else:
            return


def passed_on(failure: LegFailed) -> tuple[int, bytes]:
    """Status and body of an engine's 4xx, which goes to the client as it is."""
    if failure.body:
        return failure.status, failure.body
    told = ApiError(failure.status, f"{failure.leg} refused the request", code="engine_refused")
    return told.status, told.body()
