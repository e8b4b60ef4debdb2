"""How often a request is tried again, and what a process spends on that."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.recovery.pauses import LONGEST_PAUSE, pause_before
from pymotor.coordinator.recovery.retry_budget import WINDOW_SECONDS, RetryBudget
from pymotor.coordinator.recovery.tries import Tries
from pymotor.coordinator.settings import Settings

FAILURES = st.tuples(
    st.sampled_from(["prefill", "decode"]),
    st.sampled_from([("connect", True), ("busy", True), ("reset", False), ("timeout", False), ("recomputed", True)]),
)


@given(st.lists(FAILURES, max_size=40), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_no_request_is_tried_more_often_than_allowed(
    failures: list[tuple[str, tuple[str, bool]]], whole: int, leg_tries: int, recomputes: int, risky: int
) -> None:
    tries = Tries(
        Settings(
            max_retry=whole,
            transport_max_retry=leg_tries,
            recompute_max_retry=recomputes,
            engine_failure_max_retry=risky,
        )
    )
    tried: list[tuple[str, str, bool]] = []
    for leg, (reason, harmless) in failures:
        if not tries.left(leg, reason, harmless=harmless):
            break
        tried.append((leg, reason, harmless))
    assert len(tried) == tries.count <= max(whole, recomputes)
    assert sum(not harmless for _, _, harmless in tried) <= risky, "it may be what broke the engine"
    for leg in ("prefill", "decode"):
        assert sum(found == leg and reason != "recomputed" for found, reason, _ in tried) <= leg_tries
    assert sum(reason == "recomputed" for _, reason, _ in tried) <= recomputes


def test_a_harmless_failure_is_tried_as_often_as_allowed() -> None:
    tries = Tries(Settings(max_retry=3, transport_max_retry=3))
    assert [tries.left("decode", "connect", harmless=True) for _ in range(5)] == [True, True, True, False, False]


def test_harmless_failures_do_not_use_up_the_one_try_after_a_reset() -> None:
    tries = Tries(Settings())
    assert tries.left("decode", "connect", harmless=True)
    assert tries.left("decode", "reset", harmless=False)
    assert not tries.left("decode", "reset", harmless=False)


@given(st.integers(0, 6), st.lists(st.sampled_from(["reset", "timeout", "status_500"]), min_size=7, max_size=7))
def test_failures_that_the_request_may_have_caused_are_counted_together(risky: int, reasons: list[str]) -> None:
    tries = Tries(Settings(max_retry=9, transport_max_retry=9, engine_failure_max_retry=risky))
    allowed = [tries.left("decode", reason, harmless=False) for reason in reasons]
    assert allowed == [True] * risky + [False] * (7 - risky)
    assert tries.left("decode", "connect", harmless=True), "others are not counted with them"


def test_recomputing_switched_off() -> None:
    assert not Tries(Settings(recompute_enabled=False)).left("decode", "recomputed", harmless=True)


def test_a_quiet_process_may_spend_the_floor() -> None:
    budget = RetryBudget(0.2, 1.0, 100.0)
    assert [budget.take(100.0) for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_budget_comes_back_with_time() -> None:
    budget = RetryBudget(0.0, 0.19, 100.0)
    assert budget.take(100.0)
    assert not budget.take(101.0)
    assert budget.take(100.0 + 10 * WINDOW_SECONDS)


@given(st.floats(0, 1), st.lists(st.tuples(st.integers(0, 50), st.floats(0, 2)), max_size=60))
def test_tries_are_a_part_of_the_requests(ratio: float, steps: list[tuple[int, float]]) -> None:
    """At every moment: tries so far are at most the ratio of requests so far, and what the floor allows."""
    budget = RetryBudget(ratio, 1.0, 0.0)
    now = 0.0
    taken = 0
    for requests, seconds in steps:
        now += seconds
        budget.requests += requests
        taken += budget.take(now)
        assert taken <= ratio * budget.requests + WINDOW_SECONDS + now + 1


def test_pauses_grow_up_to_a_limit() -> None:
    random.seed(1)
    for tries in (0, 1, 2, 50, 5000):
        found = [pause_before(0.2, tries) for _ in range(50)]
        assert max(found) <= min(LONGEST_PAUSE, 0.2 * 2 ** min(tries, 30))
        assert max(found) > 0.5 * min(LONGEST_PAUSE, 0.2 * 2 ** min(tries, 30))


def test_a_budget_with_new_limits_knows_what_was_spent() -> None:
    budget = RetryBudget(0.0, 1.0, 100.0)
    assert [budget.take(100.0) for _ in range(11)] == [True] * 10 + [False]
    budget.use(0.0, 1.2)
    assert [budget.take(100.0) for _ in range(3)] == [True] * 2 + [False]
