"""The figures of a replay, and how far affinity comes with what it is told late."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from prefix_replay.replay import Outcome, Scenario
from prefix_replay.trace import BLOCK_TOKENS

GOAL = 0.9
"""Of the hit rate that the same policy has with exact state and no delay."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One replay."""

    policy: str
    exact: bool
    engines: int
    capacity_tokens: int
    """KV of each engine."""
    speed: float
    requests_per_second: float
    prompt_tokens: int
    hit_rate: float
    """Prompt tokens that needed no computing, of all."""
    bound: float
    """The hit rate of one cache without end."""
    first_token_p50: float
    """Seconds, like the next two."""
    first_token_p99: float
    first_token_mean: float
    busy_spread: float
    """The busiest engine's time over the mean."""
    prefill_spread: float
    """The same of prompt tokens computed."""
    busy: float
    """Mean share of the time in which an engine computes something."""
    removed_blocks: int
    preemptions: int
    over_expected: float
    """Of the tokens expected at the chosen engines, the share that was gone when the request was scheduled."""
    wall_seconds: float

    @property
    def place(self) -> tuple[int, int]:
        """What must be equal for figures to be compared."""
        return self.engines, self.capacity_tokens


def summarised(scenario: Scenario, outcome: Outcome, shared: int) -> Summary:
    """The figures. `shared`: prompt tokens that one cache without end would have had."""
    seconds = np.array(outcome.first_token_seconds)
    busy = np.array(outcome.busy_seconds)
    return Summary(
        policy=scenario.policy,
        exact=scenario.exact,
        engines=scenario.engines,
        capacity_tokens=scenario.blocks * BLOCK_TOKENS,
        speed=scenario.speed,
        requests_per_second=len(seconds) / outcome.virtual_seconds,
        prompt_tokens=outcome.prompt_tokens,
        hit_rate=outcome.hit_tokens / outcome.prompt_tokens,
        bound=shared / outcome.prompt_tokens,
        first_token_p50=float(np.percentile(seconds, 50)),
        first_token_p99=float(np.percentile(seconds, 99)),
        first_token_mean=float(seconds.mean()),
        busy_spread=_spread(outcome.busy_seconds),
        prefill_spread=_spread(outcome.prefilled_tokens),
        busy=float(busy.mean()) / outcome.virtual_seconds,
        removed_blocks=sum(outcome.removed_blocks),
        preemptions=outcome.preemptions,
        over_expected=outcome.missing_tokens / outcome.expected_tokens if outcome.expected_tokens else 0.0,
        wall_seconds=outcome.wall_seconds,
    )


def of_exact(summary: Summary, summaries: Iterable[Summary]) -> float | None:
    """The hit rate over that of the same policy with exact state; None where that was not measured."""
    if summary.exact:
        return None
    for other in summaries:
        if other.exact and other.policy == summary.policy and other.place == summary.place:
            return summary.hit_rate / other.hit_rate if other.hit_rate else 1.0
    return None


def short_of_goal(summaries: Sequence[Summary]) -> list[Summary]:
    """Those that do not reach `GOAL`."""
    return [each for each in summaries if (of_exact(each, summaries) or 1.0) < GOAL]


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return max(values) / mean if mean else 1.0
