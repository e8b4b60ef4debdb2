"""When failures in a row make a server unhealthy, and when they end it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pymotor.node_manager.health import HEALTH_LIMITS, Limits, Watched

REQUESTS = Limits(6, 12)


@given(st.lists(st.tuples(st.sampled_from([HEALTH_LIMITS, REQUESTS]), st.booleans())))
def test_only_failures_in_a_row_count(looks: list[tuple[Limits, bool]]) -> None:
    watched = Watched()
    in_a_row = {HEALTH_LIMITS: 0, REQUESTS: 0}
    for limits, good in looks:
        watched.note(limits, "" if good else f"bad {limits.ended}")
        in_a_row[limits] = 0 if good else in_a_row[limits] + 1
        assert bool(watched.unhealthy) is any(times >= one.unhealthy for one, times in in_a_row.items())
        assert bool(watched.lost) is any(times >= one.ended for one, times in in_a_row.items())


def test_the_reason_is_that_of_the_check_that_failed() -> None:
    watched = Watched()
    for _ in range(HEALTH_LIMITS.unhealthy):
        watched.note(REQUESTS, "no answer")
        watched.note(HEALTH_LIMITS, "/health answers 503")
    assert (watched.unhealthy, watched.lost) == ("/health answers 503", "")
    watched.note(HEALTH_LIMITS, "")
    assert watched.unhealthy == ""
