"""Whether a request, or one of its several answers, may be tried again before its first content, and when."""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.http.exchange import NO_CONNECTION
from pymotor.coordinator.recovery.pauses import pause_before
from pymotor.coordinator.recovery.tries import BUDGET, DEADLINE, EXHAUSTED, TRIED, UNBUFFERED, Tries
from pymotor.coordinator.trail import PAUSE


async def pause_before_try(context: Context, failure: LegFailed, tries: Tries) -> None:
    """Return when it may be tried again after `failure`. Raises `ApiError` when it may not."""
    if failure.final:
        raise failure.as_api_error() from failure
    services = context.services
    now = monotonic()
    pause = pause_before(context.settings.retry_delay, tries.count)
    if not tries.left(failure.leg, failure.reason, harmless=failure.harmless):
        outcome = EXHAUSTED
    elif not context.kept:
        outcome = UNBUFFERED
    elif now + pause >= context.whole_by:
        outcome = DEADLINE
    elif failure.reason not in NO_CONNECTION and not services.retry_budget.take(now):
        # A refused connection cost no engine anything.
        outcome = BUDGET
    else:
        outcome = TRIED
    services.instruments.retries.child(outcome).add()
    if outcome != TRIED:
        raise failure.as_api_error() from failure
    await rest(context, pause)


async def rest(context: Context, seconds: float) -> None:
    """Wait for so long before the next try."""
    pausing = None if context.trail is None else context.trail.begin_wait(PAUSE)
    await asyncio.sleep(seconds)
    if pausing is not None:
        pausing.end()
