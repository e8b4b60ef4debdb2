"""How many requests are followed, whatever comes."""

from __future__ import annotations

from pymotor.coordinator.dashboard.trail_budget import TrailBudget


def test_no_more_than_the_rate_over_any_time() -> None:
    budget = TrailBudget(20.0, 0.0)
    taken = sum(budget.take(number / 1000) for number in range(10_000))
    assert 20 + 190 <= taken <= 20 + 200


def test_what_a_quiet_hour_saves_is_one_second() -> None:
    budget = TrailBudget(20.0, 0.0)
    assert sum(budget.take(3600.0) for _ in range(1000)) == 20


def test_less_than_one_a_second_comes_now_and_then() -> None:
    budget = TrailBudget(0.5, 0.0)
    assert [budget.take(float(second)) for second in range(1, 8)] == [True, False, True, False, True, False, True]


def test_none_is_none_and_changes_hold_at_once() -> None:
    budget = TrailBudget(0.0, 0.0)
    assert not budget.take(100.0)
    budget.use(5.0)
    assert not budget.take(100.0)
    assert sum(budget.take(101.0) for _ in range(100)) == 5
    budget.use(0.0)
    assert not budget.take(200.0)
