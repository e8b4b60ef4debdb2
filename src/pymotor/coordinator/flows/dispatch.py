"""When a request is tried again, and how often."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.flows.carry_on import carry_on
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import doubt_encodings
from pymotor.coordinator.flows.encode_leg import ENCODE
from pymotor.coordinator.flows.last_leg import answer
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.flows.second_look import STALE_SECONDS, look_again
from pymotor.coordinator.flows.several import several
from pymotor.coordinator.flows.trying_again import pause_before_try
from pymotor.coordinator.flows.ways import choose_way, is_several, run_way
from pymotor.coordinator.recovery.carrying_on import keep_answer
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer
from pymotor.coordinator.recovery.tries import Tries
from pymotor.coordinator.routing import Pair, Routes, Single
from pymotor.coordinator.trail import PLACEMENT, QUEUE


def dispatch(context: Context, routes: Callable[[], Routes]) -> Coroutine[Any, Any, None]:
    """Answer the request, trying again and carrying on where a failure allows it; `routes` are asked for at each try,
    since the fleet may have changed. What it returns raises `ApiError`, and `LegFailed` for a reply of an engine that
    the client is to see. Not a coroutine itself, since a layer more costs each request."""
    services = context.services
    services.retry_budget.requests += 1
    if services.placement is not None or services.tokenizer is not None or context.trail is not None:
        return _placed(context, routes)
    return _until_answered(context, routes)


async def _placed(context: Context, routes: Callable[[], Routes]) -> None:
    """As `dispatch`, where more than load decides or somebody wants to know how long that took."""
    services = context.services
    trail = context.trail
    placing = None if trail is None else trail.begin_wait(PLACEMENT)
    if services.placement is not None:
        context.choice = await services.placement.choice(context.view, context.request.headers, routes)
    elif services.tokenizer is not None:
        await services.tokenizer.count(context.view)
    if placing is not None:
        placing.end()
    try:
        await _until_answered(context, routes)
    finally:
        if context.choice is not None:
            context.choice.end()


async def _until_answered(context: Context, routes: Callable[[], Routes]) -> None:
    _keep(context)
    tries: Tries | None = None
    try:
        while True:
            if context.trail is not None or context.view.media or context.services.admission.limited:
                way = await _admitted(context, routes)
            else:
                way = choose_way(context, routes())
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
                _begin_again(context, failure)
            else:
                return
    finally:
        context.uncount_body()


async def _admitted(context: Context, routes: Callable[[], Routes]) -> Pair | Single:
    """The way of the request once there is room on it. Raises `ApiError`."""
    admission = context.services.admission
    trail = context.trail
    waiting = None if trail is None else trail.begin_wait(QUEUE)
    try:
        if admission.limited or context.view.media:
            since = monotonic()
            way = await admission.admit(context, lambda: choose_way(context, routes()))
            placement, choice = context.services.placement, context.choice
            waited = monotonic() - since
            if placement is not None and choice is not None and choice.may_look_again and waited >= STALE_SECONDS:
                return await look_again(context, placement, choice, way, routes)
            return way
        return choose_way(context, routes())
    finally:
        if waiting is not None:
            waiting.end()


def _keep(context: Context) -> None:
    """Keep what a further try, or carrying on, needs."""
    if context.settings.recompute_enabled:
        context.so_far = keep_answer(context.view)
    context.keep_body()
    if isinstance(context.so_far, RepeatableAnswer):
        context.repeats = context.kept
        if not context.kept:
            context.so_far = None


def _begin_again(context: Context, failure: LegFailed) -> None:
    """Forget what a try that failed has left."""
    context.spare(failure.target.endpoint_id)
    context.handed_over_at = 0.0
    context.legs[:] = [noted for noted in context.legs if noted[0] == ENCODE]
    if context.so_far is not None:
        context.so_far = context.so_far.anew()


def passed_on(failure: LegFailed) -> tuple[int, bytes]:
    """Status and body of an engine's 4xx, which goes to the client as it is."""
    if failure.body:
        return failure.status, failure.body
    told = ApiError(failure.status, f"{failure.leg} refused the request", code="engine_refused")
    return told.status, told.body()
