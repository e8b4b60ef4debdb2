"""Where there is room: places of endpoints, and KV cache of decode for requests with media."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import shared_ledgers

from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.room import Room
from pymotor.coordinator.scheduling.target import Group, Reservation, Target
from pymotor.coordinator.settings import RequestLimits
from pymotor.fleet import Endpoint, Instance, Role

ROWS = 40
NOBODY: frozenset[str] = frozenset()


@pytest.fixture
def ledgers() -> Iterator[list[Ledger]]:
    """Of two workers and the supervisor."""
    with shared_ledgers(2, ROWS) as opened:
        yield opened


def target_of(ledger: Ledger, row: int, capacity: int | None, longest: int | None) -> Target:
    """The decode endpoint of this row."""
    return Target(
        Endpoint(id=f"decode-{row}/0", url="http://127.0.0.1:1"),
        Instance(
            name=f"decode-{row}",
            role=Role.DECODE,
            models=("m",),
            engine="sim",
            kv_capacity_tokens=capacity,
            max_model_len=longest,
        ),
        ledger,
        row,
        1,
        SharedState(),
    )


def group_of(ledger: Ledger, count: int, *, capacity: int | None = None, longest: int | None = None) -> Group:
    """So many decode endpoints."""
    return Group([target_of(ledger, row, capacity, longest) for row in range(count)])


def view_of(prompt_tokens: int, limit: int | None) -> RequestView:
    """A request of this size with media."""
    surface = SURFACES[b"/v1/chat/completions"]
    body = (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x/y"}}]}]}'
    )
    view = surface.read(surface, body, False)
    view.prompt_tokens = prompt_tokens
    view.answer_limit = limit
    return view


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=ROWS),
    st.integers(1, 3),
    st.integers(1, 30),
    st.sets(st.integers(0, ROWS - 1)),
)
def test_places_are_those_of_all_endpoints_that_may_be_used(
    in_flight: list[int], limit: int, places: int, spared: set[int]
) -> None:
    with shared_ledgers(2, ROWS) as (mine, other, _):
        group = group_of(mine, len(in_flight))
        for row, count in enumerate(in_flight):
            for number in range(count):
                (mine, other)[number % 2].begin(row, 10)
        room = Room(mine, RequestLimits(decode=limit))
        avoid = frozenset(f"decode-{row}/0" for row in spared)
        usable = [count for row, count in enumerate(in_flight) if row not in spared] or in_flight
        free = sum(max(0, limit - count) for count in usable)
        assert room.has_places(group, places, avoid) == (free >= min(places, limit * len(usable)))
        full = {f"decode-{row}/0" for row, count in enumerate(in_flight) if count >= limit}
        assert room.full(group) == full
        assert Room(mine, RequestLimits(union=1)).has_places(group, places, avoid), "another role's limit"


def test_kv_cache_is_promised_in_whole_blocks_until_it_is_gone(ledgers: list[Ledger]) -> None:
    mine, other, supervisor = ledgers
    supervisor.set_capacity(0, 1000, 10)
    group = group_of(mine, 1)
    target = group.targets[0]
    room = Room(mine, RequestLimits())
    view = view_of(101, 200)
    assert room.promise(target, view) == (310, 200)
    held = []
    for worker in (mine, other, mine):
        assert room.has_kv(group, view, 1, NOBODY)
        worker_target = group_of(worker, 1).targets[0]
        held.append(Reservation.on(worker_target, 0, kv_tokens=310))
    # 990 tokens: one block is the engine's own.
    assert not room.has_kv(group, view, 1, NOBODY)
    assert room.without_kv(group, view) == {"decode-0/0"}
    held.pop().end()
    supervisor.set_others(0, 0, 60)
    assert room.has_kv(group, view, 1, NOBODY)
    supervisor.set_others(0, 0, 61)
    assert not room.has_kv(group, view, 1, NOBODY)
    for reservation in held:
        reservation.end()
    assert mine.promised(0) == 0


def test_several_answers_need_room_for_each(ledgers: list[Ledger]) -> None:
    mine = ledgers[0]
    group = group_of(mine, 2, capacity=16 * 41)
    room = Room(mine, RequestLimits())
    view = view_of(160, 160)
    assert room.has_kv(group, view, 4, NOBODY)
    assert room.has_kv(group, view, 9, NOBODY), "as many as fit when nothing else runs"
    held = Reservation.on(group.targets[0], 0, kv_tokens=320)
    assert room.has_kv(group, view, 3, NOBODY)
    assert not room.has_kv(group, view, 4, NOBODY)
    assert not room.has_kv(group, view, 3, frozenset({"decode-1/0"}))
    held.end()


def test_an_answer_without_limit_has_a_modest_promise_and_never_beyond_the_models_length(ledgers: list[Ledger]) -> None:
    mine = ledgers[0]
    room = Room(mine, RequestLimits(media_answer_tokens=4096))
    unlimited = view_of(16, None)
    assert room.promise(group_of(mine, 1).targets[0], unlimited) == (16 + 4096, 4096)
    assert room.promise(group_of(mine, 1, longest=160).targets[0], unlimited) == (160, 144)
    unlimited.media = []
    assert room.promise(group_of(mine, 1).targets[0], unlimited) == (16 + 256, 256)


def test_what_can_never_fit_is_known_only_where_all_capacities_are(ledgers: list[Ledger]) -> None:
    mine = ledgers[0]
    room = Room(mine, RequestLimits())
    large = view_of(100_000, 10)
    known = group_of(mine, 2, capacity=5000)
    assert not room.could_fit(known, large)
    assert room.largest(known) == 5000 - 16
    assert room.could_fit(known, view_of(1000, 10))
    assert room.could_fit(group_of(mine, 2), large)
    assert room.has_kv(group_of(mine, 2), large, 1, NOBODY)


class Size(NamedTuple):
    """An endpoint's: what the fleet says and what its engine says of its KV cache, and what is promised of it."""

    said: int | None
    told: int
    block: int
    longest: int | None
    promised: int


sizes = st.builds(
    Size,
    st.sampled_from([None, None, 0, 160, 640, 5000]),
    st.sampled_from([0, 0, 150, 600]),
    st.sampled_from([0, 16, 7]),
    st.sampled_from([None, 1, 100, 300]),
    st.integers(0, 700),
)


@given(
    st.one_of(st.lists(sizes, min_size=1, max_size=5), st.lists(sizes, min_size=17, max_size=ROWS)),
    st.integers(0, 400),
    st.sampled_from([None, 0, 1, 200]),
    st.booleans(),
)
def test_without_room_are_those_that_the_promise_does_not_fit_into(
    drawn: list[Size], prompt: int, limit: int | None, with_media: bool
) -> None:
    with shared_ledgers(2, ROWS) as (mine, other, supervisor):
        targets = [target_of(mine, row, size.said, size.longest) for row, size in enumerate(drawn)]
        for row, size in enumerate(drawn):
            supervisor.set_capacity(row, size.told, size.block)
            other.begin(row, 0, size.promised)
        view = view_of(prompt, limit)
        if not with_media:
            view.media = []
        room = Room(mine, RequestLimits(media_answer_tokens=500))
        full = set()
        for target, size in zip(targets, drawn, strict=True):
            answer = limit if limit is not None else 500 if with_media else 256
            if size.longest is not None:
                answer = min(answer, max(0, size.longest - prompt))
            block = size.block or 16
            blocks = max(1, math.ceil((prompt + answer) / block))
            assert room.promise(target, view) == (blocks * block, answer)
            capacity = size.said or size.told
            if capacity and size.promised + blocks * block > max(0, capacity - block):
                full.add(target.endpoint_id)
                assert not room.fits_kv(target, view)
        assert room.without_kv(Group(targets), view) == full
