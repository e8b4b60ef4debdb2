"""Prompts that were just sent somewhere."""

from __future__ import annotations

import numpy as np
import pytest
from played_events import Clock

from pymotor.kv_conductor.holder_sets import bits_of
from pymotor.kv_conductor.key_table import Keys
from pymotor.kv_conductor.routed import RoutedPrompts

STEP = 16
"""Blocks of 16 tokens in what is told apart."""


def keys(prompt: int, count: int, shared: int = 0) -> Keys:
    own = np.arange(count, dtype=np.uint64) + np.uint64(1000 * prompt)
    own[:shared] = np.arange(shared)
    return own


def expected(routed: RoutedPrompts, own: Keys) -> dict[int, int]:
    """By slot: blocks."""
    found: dict[int, int] = {}
    for blocks, mask in routed.expected(lambda count: own[:count], len(own), 16):
        found.update(dict.fromkeys(bits_of(mask).tolist(), blocks))
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_slot_expects_the_longest_it_was_sent(clock: Clock) -> None:
    routed = RoutedPrompts(clock)
    routed.add(3, keys(1, 100, shared=40), 16)
    routed.add(500, keys(2, 100, shared=40), 16)
    routed.add(7, keys(1, 10), 16)
    assert expected(routed, keys(1, 100, shared=40)) == {3: 96, 500: 32}
    assert expected(routed, keys(9, 100, shared=40)) == {3: 32, 500: 32}
    assert expected(routed, keys(1, 15, shared=15)) == {}


def test_nothing_is_left_when_time_is_up(clock: Clock) -> None:
    routed = RoutedPrompts(clock, seconds=2.0)
    for prompt in range(20):
        routed.add(prompt % 3, keys(prompt, 64, shared=32), 16)
        clock.now += 0.25
    assert expected(routed, keys(15, 64, shared=32)) == {0: 64, 1: 32, 2: 32}
    clock.now += 2.0
    assert expected(routed, keys(15, 64, shared=32)) == {}
    assert (len(routed), routed.memory_bytes) == (0, 0)


def test_long_prompts_are_expected_for_longer(clock: Clock) -> None:
    """As they take longer to be computed; others that share their beginning, or were sent later, change nothing."""
    routed = RoutedPrompts(clock)
    routed.add(1, keys(1, 5 * 256, shared=64), 16)
    routed.add(1, keys(2, 80, shared=64), 16)
    routed.add(2, keys(3, 60_000), 16)
    clock.now += 2.0
    assert expected(routed, keys(2, 80, shared=64)) == {1: 64}
    clock.now += 4.5
    assert expected(routed, keys(1, 5 * 256, shared=64)) == {1: 5 * 256}
    clock.now += 0.5
    assert expected(routed, keys(1, 5 * 256, shared=64)) == {}
    clock.now += 22.5
    assert expected(routed, keys(3, 60_000)) == {2: 60_000}
    clock.now += 0.5
    assert expected(routed, keys(3, 60_000)) == {}
    assert (len(routed), routed.memory_bytes) == (0, 0)


def test_too_many_forget_the_first(clock: Clock) -> None:
    routed = RoutedPrompts(clock, most_keys=8)
    for prompt in (1, 2, 3):
        routed.add(prompt, keys(prompt, 64), 16)
    assert [expected(routed, keys(prompt, 64)) for prompt in (1, 2, 3)] == [{}, {2: 64}, {3: 64}]


def test_a_slot_that_expects_nothing_any_more(clock: Clock) -> None:
    routed = RoutedPrompts(clock)
    for slot in (1, 2, 1):
        routed.add(slot, keys(1, 64), 16)
    routed.forget(1)
    assert expected(routed, keys(1, 64)) == {2: 64}
    routed.forget(2)
    assert routed.memory_bytes == 0


def test_a_prompt_is_over_when_the_engine_told_all_of_it(clock: Clock) -> None:
    routed = RoutedPrompts(clock)
    for prompt in (1, 2):
        routed.add(5, keys(prompt, 64, shared=32), 16)
    for key in keys(1, 64, shared=32)[:-1].tolist():
        routed.told(5, key)
    assert expected(routed, keys(1, 64, shared=32)) == {5: 64}
    routed.told(6, keys(1, 64).item(-1))
    routed.told(5, keys(1, 64).item(-1))
    assert expected(routed, keys(1, 64, shared=32)) == {5: 32}, "the other is still expected"
    assert expected(routed, keys(2, 64, shared=32)) == {5: 64}
    clock.now += 3.0
    assert expected(routed, keys(2, 64, shared=32)) == {}
    assert (len(routed), routed.memory_bytes, routed.waiting) == (0, 0, {})


def test_nothing_is_expected_after_what_was_lost(clock: Clock) -> None:
    routed = RoutedPrompts(clock)
    for slot in (5, 6):
        routed.add(slot, keys(1, 64), 16)
    routed.lost(5, keys(1, 64).item(31))
    assert expected(routed, keys(1, 64)) == {5: 16, 6: 64}
    routed.add(5, keys(1, 64), 16)
    assert expected(routed, keys(1, 64)) == {5: 64, 6: 64}
    clock.now += 3.0
    assert expected(routed, keys(1, 64)) == {}
    assert (len(routed), routed.memory_bytes) == (0, 0)


def test_a_prompt_that_was_sent_in_vain(clock: Clock) -> None:
    routed = RoutedPrompts(clock)
    for _ in range(2):
        routed.add(5, keys(1, 70), 16)
    routed.take_back(5, keys(1, 70), 16)
    assert expected(routed, keys(1, 64)) == {5: 64}, "it was sent twice"
    routed.take_back(6, keys(1, 70), 16)
    routed.take_back(5, keys(1, 10), 16)
    routed.take_back(5, keys(1, 70), 16)
    assert expected(routed, keys(1, 64)) == {}
    routed.take_back(5, keys(1, 70), 16)
    assert len(routed) == 0


def test_what_is_over_takes_no_memory_for_long(clock: Clock) -> None:
    routed = RoutedPrompts(clock)
    for prompt in range(5000):
        routed.add(5, keys(prompt, 16), 16)
        routed.take_back(5, keys(prompt, 16), 16)
    assert routed.memory_bytes < 300_000
