"""Which way a request takes, and the flow that goes it.

| fleet | way |
|---|---|
| U | U |
| P, D | P and D by their dialect |
| U beside P, D | short prompts and n > 1 to U, long prompts to P and D; either when the other is gone |
| P alone, D alone | that one, as U |

Encoders come first in each of them when the request has media.
"""

from __future__ import annotations

from pymotor.coordinator.api.errors import ServiceUnavailable
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.hybrid import hybrid
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.pull import pull
from pymotor.coordinator.routing import Pair, Routes, Single


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
    if context.without_decode:
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
    return min(pairs, key=lambda pair: services.ledger.load(services.peek(pair.prefills, context.avoid).row))


def _least_loaded_single(context: Context, singles: tuple[Single, ...]) -> Single:
    services = context.services
    return min(singles, key=lambda single: services.ledger.load(services.peek(single.targets, context.avoid).row))


async def run_way(context: Context, way: Pair | Single, finish: Finish[Result]) -> Result:
    """One answer to one prompt by the flow that fits; `finish` runs the last leg. Raises `LegFailed`, `ApiError`."""
    if isinstance(way, Single):
        return await hybrid(context, way, finish)
    return await pull(context, way, finish)
