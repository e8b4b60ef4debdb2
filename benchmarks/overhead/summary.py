"""From measurements to the figures of the report: medians, ratios within a run, limits kept or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from overhead.measure import Measurement
from overhead.scenarios import SCENARIOS, Scenario

OURS = (
    "pymotor",
    "pymotor-keys",
    "pymotor-keys-limits",
    "pymotor-traces",
    "pymotor-affinity",
    "pymotor-2-workers",
    "pymotor-carry-on",
    "pymotor-proxy",
)
CARRYING_ON = frozenset({"pymotor-carry-on", "pymotor-proxy"})
THEIRS = "vllm-router"


class Spread(NamedTuple):
    """The median of the rounds, with the least and the greatest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """PyMotor against vllm-router in one scenario."""

    gateway: str
    """Which PyMotor: with what on."""
    scenario: Scenario
    endpoints: int
    ours: Spread
    """Microseconds of CPU time for a request."""
    theirs: Spread
    ratio: Spread
    """Of each round, ours divided by theirs."""
    failed: bool
    """An answer was wrong or missing in some round, on either side."""

    @property
    def limit(self) -> float | None:
        """The greatest ratio that is good; None where nothing is asked for."""
        if self.gateway in CARRYING_ON and self.scenario.limit_carrying_on is not None:
            return self.scenario.limit_carrying_on
        return self.scenario.limit

    @property
    def kept(self) -> bool | None:
        """Whether the limit is kept; None where there is none."""
        if self.limit is None:
            return None
        return not self.failed and self.ratio.median <= self.limit


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there are no values."""
    if not values:
        raise ValueError("no rounds to take a median of")
    return Spread(median(values), min(values), max(values))


def rounds_of(
    measurements: Sequence[Measurement], gateway: str, scenario: str, endpoints: int
) -> dict[int, Measurement]:
    """The measurements of one gateway in one scenario, by round."""
    return {
        each.round: each
        for each in measurements
        if (each.gateway, each.scenario, each.endpoints) == (gateway, scenario, endpoints)
    }


def compare(measurements: Sequence[Measurement]) -> list[Verdict]:
    """A verdict for each PyMotor, scenario and number of endpoints that vllm-router was measured in as well.

    Rounds are compared one by one, because the machine may be busier in one than in another.
    """
    verdicts = []
    cases = dict.fromkeys((each.gateway, each.scenario, each.endpoints) for each in measurements)
    for ours, name, endpoints in cases:
        if ours not in OURS:
            continue
        scenario = SCENARIOS[name]
        mine = rounds_of(measurements, ours, name, endpoints)
        peers = rounds_of(measurements, THEIRS, name, endpoints)
        both = sorted(mine.keys() & peers.keys())
        if not both:
            continue
        verdicts.append(
            Verdict(
                gateway=ours,
                scenario=scenario,
                endpoints=endpoints,
                ours=spread([mine[each].cpu_us for each in both]),
                theirs=spread([peers[each].cpu_us for each in both]),
                ratio=spread([mine[each].cpu_us / peers[each].cpu_us for each in both]),
                failed=any(mine[each].errors or peers[each].errors for each in both),
            )
        )
    return verdicts
