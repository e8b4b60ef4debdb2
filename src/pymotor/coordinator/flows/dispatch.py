"""When a request is tried again, and how often."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import doubt_encodings
from pymotor.coordinator.flows.encode_leg import ENCODE
from pymotor.coordinator.flows.last_leg import answer
from pymotor.coordinator.flows.legs import LegFailed
from pymotor.coordinator.flows.several import several
from pymotor.coordinator.flows.ways import choose_way, run_way
from pymotor.coordinator.routing import Pair, Routes

_LONGEST_DELAY = 5.0


async def dispatch(context: Context, routes: Callable[[], Routes]) -> None:
    """Answer the request, trying again where a failure allows it; `routes` are asked for at each try, since the fleet
    may have changed. Raises `ApiError`, and `LegFailed` for a reply of
    an engine that the client is to see."""
    settings = context.services.settings
    admission = context.services.admission
    retries = 0
    while True:
        way = choose_way(context, routes())
        if admission.limited or context.view.media:
            way = await admission.admit(context, lambda: choose_way(context, routes()))
        try:
            if isinstance(way, Pair) and (context.view.n > 1 or context.view.prompts):
                await several(context, way)
            else:
                await run_way(context, way, answer)
        except LegFailed as failure:
            doubt_encodings(context, failure)
            allowed = settings.max_retry if failure.attempts is None else min(failure.attempts, settings.max_retry)
            if failure.clients_fault or context.committed:
                raise
            if retries >= allowed:
                raise failure.as_api_error() from failure
            context.avoid |= {failure.target.endpoint_id}
            context.legs[:] = [noted for noted in context.legs if noted[0] == ENCODE]
            await asyncio.sleep(min(_LONGEST_DELAY, settings.retry_delay * 2**retries) * random.random())
            retries += 1
        else:
            return


def passed_on(failure: LegFailed) -> tuple[int, bytes]:
    """Status and body of an engine's 4xx, which goes to the client as it is."""
    if failure.body:
        return failure.status, failure.body
    told = ApiError(failure.status, f"{failure.leg} refused the request", code="engine_refused")
    return told.status, told.body()
