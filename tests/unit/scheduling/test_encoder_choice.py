"""Affinity with bounded load: the same item the same encoder, none overloaded, few items move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from ledgers import shared_ledgers

from pymotor.coordinator.scheduling.encoder_choice import EncoderChoice
from pymotor.coordinator.scheduling.ledger import Ledger

KEYS = st.integers(min_value=0, max_value=2**64 - 1)
ITEMS = st.lists(st.tuples(KEYS, st.integers(0, 100_000)), min_size=1, max_size=60)
COUNTS = st.integers(min_value=1, max_value=9)


def names(count: int) -> list[str]:
    return [f"encode-{number}/0" for number in range(count)]


def ids(indices: Iterable[int]) -> frozenset[str]:
    return frozenset(f"encode-{index}/0" for index in indices)


def idle_choice(ledger: Ledger, endpoints: list[str]) -> EncoderChoice:
    return EncoderChoice(ledger, endpoints, range(len(endpoints)))


@given(COUNTS, ITEMS, st.sets(st.integers(0, 8)))
def test_nobody_beyond_the_bound_gets_an_item(count: int, items: list[tuple[int, int]], barred: set[int]) -> None:
    everybody = set(range(count))
    excluded = frozenset() if barred >= everybody else frozenset(barred & everybody)
    allowed = [index for index in range(count) if index not in excluded]
    with shared_ledgers(2, count) as (first, second, _):
        choices = [idle_choice(first, names(count)), idle_choice(second, names(count))]
        for number, (key, load) in enumerate(items):
            pending = [first.load(index) for index in range(count)]
            total = sum(pending[index] for index in allowed)
            chosen = choices[number % 2].choose(key, load, ids(excluded))
            assert chosen in allowed
            assert pending[chosen] < max(1, ceil(5 * (total + load) / (4 * len(allowed))))
            (first, second)[number % 2].begin(chosen, load)


@given(COUNTS, KEYS, st.integers(0, 10**9))
def test_an_idle_fleet_gives_the_same_item_the_same_encoder(count: int, key: int, load: int) -> None:
    with shared_ledgers(1, 16) as (ledger, _):
        straight = idle_choice(ledger, names(count))
        turned = EncoderChoice(ledger, names(count)[::-1], [15 - index for index in range(count)])
        chosen = straight.choose(key, load)
        assert straight.choose(key, load) == chosen
        assert turned.choose(key, load) == count - 1 - chosen, "the order of naming must not matter"


@given(st.integers(2, 9), st.lists(KEYS, min_size=1, max_size=80), st.data())
def test_only_the_items_of_an_encoder_that_goes_are_moved(count: int, keys: list[int], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, count - 1))
    with shared_ledgers(1, count) as (ledger, _):
        endpoints = names(count)
        before = idle_choice(ledger, endpoints)
        kept = endpoints[:gone] + endpoints[gone + 1 :]
        after = EncoderChoice(ledger, kept, [row for row in range(count) if row != gone])
        for key in keys:
            was = endpoints[before.choose(key, 1)]
            now = kept[after.choose(key, 1)]
            assert endpoints[before.choose(key, 1, ids({gone}))] == now, "excluded counts as gone"
            if was != endpoints[gone]:
                assert now == was


@given(COUNTS, KEYS, st.sets(st.integers(0, 8)), st.sets(st.integers(0, 8)))
def test_whom_to_avoid_is_chosen_only_when_nobody_else_is_left(
    count: int, key: int, excluded: set[int], avoided: set[int]
) -> None:
    left = set(range(count)) - excluded
    with shared_ledgers(1, count) as (ledger, _):
        choice = idle_choice(ledger, names(count))
        if not left:
            with pytest.raises(LookupError):
                choice.choose(key, 1, ids(excluded), ids(avoided))
            return
        chosen = choice.choose(key, 1, ids(excluded), ids(avoided))
        assert chosen in (left - avoided or left)
        if left - avoided:
            assert chosen == choice.choose(key, 1, ids(excluded | avoided)), "to be avoided counts as gone"


@given(st.integers(1, 9), KEYS)
def test_the_order_goes_on_to_the_next_when_the_first_is_full(count: int, key: int) -> None:
    """Filling whoever was chosen visits every encoder, in the order that exclusion shows too."""
    with shared_ledgers(1, count) as (ledger, _):
        choice = idle_choice(ledger, names(count))
        visited: list[int] = []
        for _ in range(count):
            chosen = choice.choose(key, 0, ids(visited))
            assert chosen not in visited
            visited.append(chosen)
        for expected in visited[:-1]:
            assert choice.choose(key, 0) == expected
            ledger.begin(expected, 10**9)


def test_an_encoder_at_the_bound_is_passed_over_and_one_below_it_is_not() -> None:
    with shared_ledgers(1, 2) as (ledger, _):
        choice = idle_choice(ledger, names(2))
        first = choice.choose(7, 3)
        ledger.begin(first, 5)
        # ceil(1.25 * (5 + 3) / 2) = 5
        assert choice.choose(7, 3) == 1 - first
        ledger.ease(first, 1)
        # ceil(1.25 * (4 + 3) / 2) = 5
        assert choice.choose(7, 3) == first


def test_items_spread_evenly() -> None:
    with shared_ledgers(1, 8) as (ledger, _):
        choice = idle_choice(ledger, names(8))
        taken = Counter(choice.choose(xxhash.xxh3_64_intdigest(str(item).encode()), 1) for item in range(8_000))
    # Binomial: 1,000 expected, standard deviation 30.
    assert sorted(taken) == list(range(8))
    assert all(abs(taken[index] - 1000) < 200 for index in taken)


def test_unusual_input_is_refused() -> None:
    with shared_ledgers(1, 2) as (ledger, _):
        with pytest.raises(ValueError, match="named twice"):
            EncoderChoice(ledger, ["a", "a"], [0, 1])
        with pytest.raises(ValueError, match="2 encoder endpoints but 1"):
            EncoderChoice(ledger, ["a", "b"], [0])
        with pytest.raises(LookupError, match="no encoder endpoint"):
            EncoderChoice(ledger, [], []).choose(1, 1)
        with pytest.raises(LookupError, match="no encoder endpoint"):
            EncoderChoice(ledger, ["a", "b"], [0, 1]).choose(1, 1, frozenset({"a", "b"}))


def test_rows_of_other_endpoints_do_not_count() -> None:
    with shared_ledgers(1, 4) as (ledger, _):
        ledger.begin(0, 10**9)
        choice = EncoderChoice(ledger, ["a", "b"], [1, 3])
        first = choice.choose(7, 10)
        ledger.begin([1, 3][first], 100)
        assert choice.choose(7, 10) == 1 - first
        assert np.asarray([ledger.load(row) for row in range(4)]).sum() == 10**9 + 100
