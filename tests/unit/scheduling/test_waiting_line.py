"""Who waits is served by priority and arrival, in one order across workers, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import shared_ledgers

from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.waiting_line import (
    PLAIN,
    WITH_MEDIA,
    LineFull,
    WaitedTooLong,
    WaitingLine,
    key_of,
    total_waiting,
)

ROWS = 4
SLOT = 2
LONG = 30.0


class Endpoint:
    """So many places at row `SLOT`, which the ledger keeps."""

    def __init__(self, ledger: Ledger, places: int) -> None:
        self.ledger = ledger
        self.places = places

    def fits(self) -> bool:
        return self.ledger.in_flight(SLOT) < self.places


async def wait_for_place(
    line: WaitingLine, endpoint: Endpoint, key: int, served: list[int], *, plane: int = PLAIN, seconds: float = LONG
) -> None:
    """As admission does: wait, look, take the place in the same turn of the loop."""
    waiter = line.join(plane, SLOT, plane, key, endpoint.fits, seconds)
    got = False
    try:
        while not got:
            await line.called(waiter)
            got = endpoint.fits()
            if not got:
                line.not_yet(waiter)
    finally:
        line.leave(waiter, served=got)
    endpoint.ledger.begin(SLOT, 10)
    served.append(key)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so."""
    ends = asyncio.get_running_loop().time() + LONG
    while not condition():
        assert asyncio.get_running_loop().time() < ends
        await asyncio.sleep(0.001)


def _as_many(served: list[int], number: int) -> bool:
    return len(served) >= number


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=2, max_size=2),
    st.lists(st.integers(0, 10**15), min_size=2, max_size=2),
)
def test_keys_order_by_priority_then_by_arrival(priorities: list[int], microseconds: list[int]) -> None:
    bounded = [max(-255, min(255, priority)) for priority in priorities]
    keys = [key_of(priority, time / 1e6) for priority, time in zip(priorities, microseconds, strict=True)]
    assert all(0 < key < 2**63 for key in keys)
    if bounded[0] != bounded[1]:
        assert (keys[0] < keys[1]) == (bounded[0] < bounded[1])
    elif abs(microseconds[0] - microseconds[1]) > 1:
        assert (keys[0] < keys[1]) == (microseconds[0] < microseconds[1])


async def test_lower_priority_values_go_first_and_equals_in_order_of_arrival() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        line = WaitingLine(asyncio.get_running_loop(), ledger, 0, 100)
        endpoint = Endpoint(ledger, 0)
        served: list[int] = []
        keys = [key_of(priority, arrival) for priority, arrival in ((0, 1.0), (5, 0.5), (0, 2.0), (-3, 3.0), (0, 1.5))]
        tasks = [asyncio.ensure_future(wait_for_place(line, endpoint, key, served)) for key in keys]
        await until(lambda: line.waiting() == len(keys))
        endpoint.places = len(keys)
        await asyncio.gather(*tasks)
        assert served == sorted(keys)
        assert total_waiting(ledger) == 0
        assert not line.is_busy(SLOT, PLAIN)


async def test_two_workers_serve_in_one_order_and_never_beyond_the_places() -> None:
    with shared_ledgers(2, ROWS) as (first, second, reader):
        loop = asyncio.get_running_loop()
        ledgers = (first, second)
        lines = [WaitingLine(loop, ledger, number, 100) for number, ledger in enumerate(ledgers)]
        endpoints = [Endpoint(ledger, 0) for ledger in ledgers]
        served: list[int] = []
        keys = [key_of(0, number / 1000) for number in range(20)]
        # All of the first ten wait with the second worker.
        owners = [1] * 10 + [0] * 10
        tasks = [
            asyncio.ensure_future(wait_for_place(lines[owner], endpoints[owner], key, served))
            for owner, key in reversed(list(zip(owners, keys, strict=True)))
        ]
        await until(lambda: total_waiting(reader) == len(keys))
        assert all(line.is_busy(SLOT, PLAIN) for line in lines), "newcomers of both workers have to join"
        for number in range(1, len(keys) + 1):
            for endpoint in endpoints:
                endpoint.places = number
            await until(partial(_as_many, served, number))
            assert reader.in_flight(SLOT) == number
        await asyncio.gather(*tasks)
        assert served == keys


async def test_the_line_has_an_end_for_all_workers_together() -> None:
    with shared_ledgers(2, ROWS) as (first, second, _):
        loop = asyncio.get_running_loop()
        lines = [WaitingLine(loop, ledger, number, 2) for number, ledger in enumerate((first, second))]
        endpoint = Endpoint(first, 0)
        tasks = [asyncio.ensure_future(wait_for_place(line, endpoint, 1, [])) for line in lines]
        await until(lambda: lines[0].waiting() == 2)
        with pytest.raises(LineFull):
            await wait_for_place(lines[1], endpoint, 1, [])
        assert lines[0].seconds_to_wait() >= 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: not lines[0].is_busy(SLOT, PLAIN) and not lines[1].is_busy(SLOT, PLAIN))
        assert lines[0].waiting() == 0


async def test_a_deadline_ends_the_wait_and_the_next_is_served() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        line = WaitingLine(asyncio.get_running_loop(), ledger, 0, 100)
        endpoint = Endpoint(ledger, 0)
        served: list[int] = []
        impatient = asyncio.ensure_future(wait_for_place(line, endpoint, 1, served, seconds=0.01))
        patient = asyncio.ensure_future(wait_for_place(line, endpoint, 2, served))
        with pytest.raises(WaitedTooLong):
            await impatient
        endpoint.places = 1
        await patient
        assert served == [2]


async def test_who_is_called_and_leaves_in_the_same_moment_passes_the_turn_on() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        line = WaitingLine(asyncio.get_running_loop(), ledger, 0, 100)
        endpoint = Endpoint(ledger, 0)
        served: list[int] = []
        first = line.join("lane", SLOT, PLAIN, 1, endpoint.fits, LONG)
        second = asyncio.ensure_future(wait_for_place(line, endpoint, 2, served))
        await until(lambda: line.waiting() == 2)
        endpoint.places = 1
        await until(first.turn.done)
        line.leave(first, served=False)
        await second
        assert served == [2]


async def test_who_finds_the_place_taken_waits_on_as_the_first() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        line = WaitingLine(asyncio.get_running_loop(), ledger, 0, 100)
        endpoint = Endpoint(ledger, 0)
        served: list[int] = []
        waiter = line.join("lane", SLOT, PLAIN, 1, endpoint.fits, LONG)
        endpoint.places = 1
        await until(waiter.turn.done)
        ledger.begin(SLOT, 10)
        line.not_yet(waiter)
        assert not waiter.turn.done()
        ledger.end(SLOT, 10)
        await line.called(waiter)
        line.leave(waiter, served=True)
        await until(lambda: not line.is_busy(SLOT, PLAIN))
        assert served == []


async def test_a_worker_that_does_not_look_after_its_waiters_holds_nobody_up() -> None:
    with shared_ledgers(2, ROWS) as (first, second, _):
        loop = asyncio.get_running_loop()
        hung = second.line(1, PLAIN)
        hung[SLOT] = 1
        line = WaitingLine(loop, first, 0, 100)
        assert not line.is_busy(SLOT, PLAIN), "what it published is old"
        served: list[int] = []
        await wait_for_place(line, Endpoint(first, 1), 2, served)
        assert served == [2]


async def test_waiting_for_kv_cache_does_not_hold_up_who_waits_for_places() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        line = WaitingLine(asyncio.get_running_loop(), ledger, 0, 100)
        never = Endpoint(ledger, 0)
        served: list[int] = []
        media = asyncio.ensure_future(wait_for_place(line, never, 1, served, plane=WITH_MEDIA))
        await until(lambda: line.is_busy(SLOT, WITH_MEDIA))
        assert not line.is_busy(SLOT, PLAIN)
        await wait_for_place(line, Endpoint(ledger, 1), 2, served)
        assert served == [2]
        media.cancel()
        await asyncio.gather(media, return_exceptions=True)


async def test_those_that_left_are_forgotten_behind_a_first_that_stays() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        line = WaitingLine(asyncio.get_running_loop(), ledger, 0, 10_000)
        endpoint = Endpoint(ledger, 0)
        stays = line.join("lane", SLOT, PLAIN, 1, endpoint.fits, LONG)
        for _ in range(50):
            behind = [line.join("lane", SLOT, PLAIN, 2, endpoint.fits, LONG) for _ in range(50)]
            for waiter in behind:
                line.leave(waiter, served=False)
            await asyncio.sleep(0)
        assert line.waiting() == 1
        assert len(stays.lane.waiters) < 200
        line.leave(stays, served=False)
