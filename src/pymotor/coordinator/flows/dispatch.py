"""Which flow a request takes, and what happens when a leg of it fails.

| fleet | way |
|---|---|
| U | U |
| P, D | P, then D by their dialect |
| U beside P, D | short prompts and n > 1 to U, long prompts to P and D; either when the other is gone |
| P alone, D alone | that one, as U |

Encoders come first in each of them when the request has media.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pymotor.coordinator.api.errors import ApiError, ServiceUnavailable
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import ENCODE
from pymotor.coordinator.flows.hybrid import hybrid
from pymotor.coordinator.flows.legs import LegFailed
from pymotor.coordinator.flows.pull import pull, to_client
from pymotor.coordinator.flows.several import several
from pymotor.coordinator.routing import Pair, Routes, Single

_LONGEST_DELAY = 5.0


def choose_way(context: Context, routes: Routes) -> Pair | Single:
    """The pair or single group this request goes to. Raises `ServiceUnavailable`."""
    pairs, singles = routes.pairs, routes.singles
    if context.services.settings.deploy_mode == "single_node":
        pairs = ()
    if pairs and singles:
        view = context.view
        short = view.prompt_tokens < context.services.settings.prefill_threshold
        if short or view.n > 1:
            pairs = ()
    if pairs:
        return pairs[0] if len(pairs) == 1 else _least_loaded_pair(context, pairs)
    if singles:
        return singles[0] if len(singles) == 1 else _least_loaded_single(context, singles)
    if routes.leftovers:
        return _least_loaded_single(context, routes.leftovers)
    raise ServiceUnavailable("no engine can take the request now")


def _least_loaded_pair(context: Context, pairs: tuple[Pair, ...]) -> Pair:
    services = context.services
    return min(pairs, key=lambda pair: services.ledger.load(services.choose(pair.prefills, context.avoid).row))


def _least_loaded_single(context: Context, singles: tuple[Single, ...]) -> Single:
    services = context.services
    return min(singles, key=lambda single: services.ledger.load(services.choose(single.targets, context.avoid).row))


async def dispatch(context: Context, routes: Callable[[], Routes]) -> None:
    """Answer the request, trying again where a failure allows it; `routes` are asked for at each try, since the fleet
    may have changed. Raises `ApiError`, and `LegFailed` for a reply of
    an engine that the client is to see."""
    settings = context.services.settings
    retries = 0
    while True:
        way = choose_way(context, routes())
        try:
            if isinstance(way, Single):
                await hybrid(context, way)
            elif context.view.n > 1 or context.view.prompts:
                await several(context, way)
            else:
                await pull(context, way, to_client)
        except LegFailed as failure:
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
