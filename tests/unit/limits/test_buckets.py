"""Buckets in shared memory decide as one bucket in one process would, whichever process takes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.limits.buckets import Buckets, size_of
from pymotor.coordinator.scheduling.ledger import Ledger

WINDOW = 60.0
COLUMNS = 4


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = Ledger.allocate(columns=COLUMNS, rows=3, behind=size_of(COLUMNS, 8))
    yield descriptor
    os.close(descriptor)


def views(descriptor: int, clock: Any) -> list[Buckets]:
    behind = Ledger.end_of(COLUMNS, 3)
    return [
        Buckets(descriptor, behind, columns=COLUMNS, buckets=8, column=column, clock=clock) for column in range(COLUMNS)
    ]


class Clock:
    """Time that a test decides on, from a machine that has run for a while."""

    def __init__(self) -> None:
        self.now = 12345.0

    def __call__(self) -> float:
        return self.now


class PlainBucket:
    """What a bucket is, in the words of a text book."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._content = WINDOW
        self._at = clock.now

    def _flow(self) -> None:
        self._content = min(WINDOW, self._content + self._clock.now - self._at)
        self._at = self._clock.now

    def take(self, seconds: float) -> bool:
        self._flow()
        if self._content < min(seconds, WINDOW) - 1e-6:
            return False
        self._content -= seconds
        return True

    def correct(self, seconds: float) -> None:
        self._flow()
        self._content -= seconds


STEPS = st.lists(
    st.tuples(
        st.integers(0, COLUMNS - 1),
        st.sampled_from((0.0, 0.0, 0.5, 7.0, 100.0)),
        st.sampled_from((1.5, 6.0, 20.0, 60.0, 90.0)),
        st.sampled_from((0.0, 0.0, 4.0, -1.5)),
    ),
    max_size=60,
)


@given(STEPS)
def test_decisions_are_those_of_one_bucket(steps: list[tuple[int, float, float, float]]) -> None:
    descriptor = Ledger.allocate(columns=COLUMNS, rows=3, behind=size_of(COLUMNS, 8))
    try:
        clock = Clock()
        shared, plain = views(descriptor, clock), PlainBucket(clock)
        for column, passes, cost, correction in steps:
            clock.now += passes
            taken = shared[column].take(5, cost, WINDOW) == 0.0
            assert taken == plain.take(cost)
            if taken and correction > -cost:
                shared[column].correct(5, correction)
                plain.correct(correction)
        del shared
    finally:
        os.close(descriptor)


def test_the_wait_that_is_told_is_the_time_until_it_can_be_had(memory: int) -> None:
    clock = Clock()
    bucket = views(memory, clock)[0]
    assert [bucket.take(0, 20.0, WINDOW) for _ in range(3)] == [0.0] * 3
    wait = bucket.take(0, 20.0, WINDOW)
    assert wait == pytest.approx(20.0)
    clock.now += wait - 0.1
    assert bucket.take(0, 20.0, WINDOW) > 0
    clock.now += 0.11
    assert bucket.take(0, 20.0, WINDOW) == 0.0


def test_more_than_a_bucket_holds_is_taken_from_a_full_one_which_owes_the_rest(memory: int) -> None:
    clock = Clock()
    bucket = views(memory, clock)[0]
    assert bucket.take(0, 90.0, WINDOW) == 0.0
    assert bucket.take(0, 1.0, WINDOW) == pytest.approx(31.0)
    clock.now += 100
    assert bucket.take(0, 90.0, WINDOW) == 0.0


def test_buckets_do_not_touch_each_other_nor_the_ledger(memory: int) -> None:
    clock = Clock()
    ledger = Ledger(memory, columns=COLUMNS, rows=3, column=0)
    buckets = views(memory, clock)
    assert [view.take(number, 60.0, WINDOW) for number, view in enumerate(buckets)] == [0.0] * COLUMNS
    assert [ledger.load(row) for row in range(3)] == [0, 0, 0]
    ledger.clear_column(0)
    assert buckets[3].take(0, 60.0, WINDOW) > 0, "the end of a process is no new bucket"


def _take_many(descriptor: int, column: int, go: Connection, found: Connection) -> None:
    bucket = views(descriptor, Clock())[column]
    go.recv()
    found.send(sum(bucket.take(0, 0.06, WINDOW) == 0.0 for _ in range(2000)))


def test_processes_that_take_at_once_never_get_more_than_there_is(memory: int) -> None:
    context = multiprocessing.get_context("fork")
    running = []
    for column in range(COLUMNS):
        go, told = context.Pipe()
        found, tells = context.Pipe()
        process = context.Process(target=_take_many, args=(memory, column, told, tells))
        process.start()
        running.append((process, go, found))
    for _, go, _ in running:
        go.send(None)
    taken = sum(found.recv() for _, _, found in running)
    for process, *_ in running:
        process.join()
    assert taken <= 1000
    last = views(memory, Clock())[0]
    while last.take(0, 0.06, WINDOW) == 0.0:
        taken += 1
    assert taken == 1000
