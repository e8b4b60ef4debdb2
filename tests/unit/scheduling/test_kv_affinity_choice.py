"""The choice by cached prefix and load: worked examples with the parameters users know, and what always holds."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.scheduling.kv_affinity import (
    AffinityRules,
    choose_among_holders,
    choose_by_affinity,
    highest_load,
    prefill_cost,
    unified_score,
)

UNIFIED = AffinityRules()
GATED = AffinityRules(mode="load_gated")


def tenths(*tokens: int) -> list[int]:
    return [10 * one for one in tokens]


def test_what_is_cached_need_not_be_computed() -> None:
    assert prefill_cost(UNIFIED, 1000, 800) == 200
    assert prefill_cost(AffinityRules(overlap_credit=0.5), 1000, 800) == 600
    assert prefill_cost(UNIFIED, 1000, 5000) == 0
    assert prefill_cost(AffinityRules(overlap_credit=2.0), 1000, 800) == 0


@pytest.mark.parametrize(
    ("rules", "matched", "loads", "chosen"),
    [
        # 1000 - 800 + 700 = 900 beats 1000 + 0.
        (UNIFIED, [800, 0], tenths(700, 0), 0),
        (UNIFIED, [800, 0], tenths(900, 0), 1),
        # The load counts for nothing, but the bound stands: 1.25 * 2500 + 1000 = 4125.
        (AffinityRules(load_weight=0), [800, 0], tenths(900, 0), 0),
        (AffinityRules(load_weight=0), [800, 0], tenths(5000, 0), 1),
        (AffinityRules(load_weight=0, load_bound=0), [800, 0], tenths(5000, 0), 0),
        # Half the credit: 1000 - 400 + 500 > 1000.
        (AffinityRules(overlap_credit=0.5), [800, 0], tenths(500, 0), 1),
        # The prefill weighs twice: 2 * 200 + 1500 < 2 * 1000.
        (AffinityRules(prefill_load_scale=2), [800, 0], tenths(1500, 0), 0),
        (AffinityRules(load_weight=2), [800, 0], tenths(500, 0), 1),
    ],
)
def test_unified(rules: AffinityRules, matched: list[int], loads: list[int], chosen: int) -> None:
    assert choose_by_affinity(rules, 1000, matched, loads) == chosen


@pytest.mark.parametrize(
    ("topn", "matched", "loads", "chosen"),
    [
        (0, [900, 500, 100], tenths(300, 200, 100), 1),
        (1, [900, 500, 100], tenths(300, 200, 100), 2),
        (3, [900, 500, 100], tenths(300, 200, 100), 0),
        (3, [500, 500, 100], tenths(300, 200, 100), 1),
        # More than the prompt cannot be held of it.
        (3, [9000, 1000, 100], tenths(300, 200, 100), 1),
        # All are idle: who holds most is not kept out by the order of the list.
        (0, [0, 0, 700], tenths(0, 0, 0), 2),
    ],
)
def test_load_gated(topn: int, matched: list[int], loads: list[int], chosen: int) -> None:
    assert choose_by_affinity(AffinityRules(mode="load_gated", load_gate_topn=topn), 1000, matched, loads) == chosen


@pytest.mark.parametrize("rules", [UNIFIED, GATED])
@pytest.mark.parametrize("count", [3, 40])
def test_equals_take_turns(rules: AffinityRules, count: int) -> None:
    chosen = [choose_by_affinity(rules, 100, [0] * count, [0] * count, turn) for turn in range(count)]
    assert chosen == list(range(count))


def test_the_bound_holds_among_many() -> None:
    rules = AffinityRules(load_weight=0)
    matched, loads = [800, *[0] * 29], tenths(50_000, *[0] * 29)
    assert choose_by_affinity(rules, 1000, matched, loads) != 0
    assert choose_by_affinity(AffinityRules(load_weight=0, load_bound=0), 1000, matched, loads) == 0


def test_nobody_to_choose_from() -> None:
    with pytest.raises(ValueError, match="no endpoint"):
        choose_by_affinity(UNIFIED, 1, [], [])


weights = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0])
rules_of_users = st.builds(
    AffinityRules,
    mode=st.sampled_from(["unified", "load_gated"]),
    load_weight=weights,
    overlap_credit=weights,
    prefill_load_scale=weights,
    load_gate_topn=st.integers(0, 6),
    load_bound=st.sampled_from([0.0, 1.0, 1.25, 2.0]),
)
fleets = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2000)), min_size=1, max_size=60)


@given(rules_of_users, st.integers(0, 250), fleets, st.integers(0, 100))
def test_what_always_holds(rules: AffinityRules, prompt: int, fleet: list[tuple[int, int]], turn: int) -> None:
    matched, loads = [one[0] for one in fleet], [one[1] for one in fleet]
    chosen = choose_by_affinity(rules, prompt, matched, loads, turn)
    bound = highest_load(rules, prompt, loads)
    assert loads[chosen] <= bound
    eligible = [index for index in range(len(loads)) if loads[index] <= bound]
    if rules.mode == "unified":
        scores = {index: unified_score(rules, prompt, matched[index], loads[index]) for index in eligible}
        assert scores[chosen] == min(scores.values())
    else:
        quieter = [index for index in eligible if loads[index] < loads[chosen]]
        assert len(quieter) < rules.gate
        assert min(matched[chosen], prompt) >= max((min(matched[index], prompt) for index in quieter), default=0)


@given(
    rules_of_users,
    st.integers(0, 250),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), min_size=2, max_size=16),
    st.integers(0, 100),
)
def test_many_are_chosen_among_as_few_are(
    rules: AffinityRules, prompt: int, fleet: list[tuple[int, int]], turn: int
) -> None:
    """The same endpoints with so many hopeless ones behind them that arrays are used."""
    count = len(fleet)
    matched, loads = [one[0] for one in fleet], [one[1] for one in fleet]
    without_bound = AffinityRules(
        mode=rules.mode,
        load_weight=rules.load_weight or 1.0,
        overlap_credit=rules.overlap_credit,
        prefill_load_scale=rules.prefill_load_scale,
        load_gate_topn=min(rules.load_gate_topn, count),
        load_bound=0,
    )
    hopeless = 10**9
    few = choose_by_affinity(without_bound, prompt, matched, loads, turn % count)
    many = choose_by_affinity(
        without_bound, prompt, np.array(matched + [0] * 40), np.array(loads + [hopeless] * 40), turn % count
    )
    assert many == few


@given(
    rules_of_users,
    st.integers(0, 250),
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 7, 100, 300]), st.integers(0, 40)), min_size=1, max_size=60),
    st.integers(0, 100),
    st.randoms(use_true_random=False),
)
def test_among_holders_the_same_is_chosen(
    rules: AffinityRules, prompt: int, fleet: list[tuple[int, int]], turn: int, random: Random
) -> None:
    matched, loads = [one[0] for one in fleet], np.array([50 * one[1] for one in fleet], np.int64)
    places = [place for place, tokens in enumerate(matched) if tokens]
    random.shuffle(places)
    held = [matched[place] for place in places]
    best = choose_by_affinity(rules, prompt, matched, loads, turn)
    found = (best, min(matched[best], prompt))
    assert choose_among_holders(rules, prompt, places, held, loads, turn) == found
    packed = np.array(places, np.uint16), np.array(held, np.uint32)
    assert choose_among_holders(rules, prompt, *packed, loads, turn) == found


@given(rules_of_users, st.integers(0, 50), st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 50))
def test_where_nobody_holds_anything_the_same_is_chosen(
    rules: AffinityRules, prompt: int, loads: list[int], turn: int
) -> None:
    best = choose_by_affinity(rules, prompt, [0] * len(loads), loads, turn)
    assert choose_among_holders(rules, prompt, [], [], np.array(loads, np.int64), turn) == (best, 0)


def test_nobody_to_choose_from_among_holders() -> None:
    with pytest.raises(ValueError, match="no endpoint"):
        choose_among_holders(UNIFIED, 1, [], [], np.array([], np.int64))
