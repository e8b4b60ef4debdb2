"""What the core tells of its prefix cache: whoever follows it knows what the cache holds."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pymotor.engines.sim.adapters import Adapter
from pymotor.engines.sim.cache_events import CacheEvents, Cleared, Removed, Stored
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import CoreOptions
from pymotor.engines.sim.prefix_keys import extend_keys
from pymotor.engines.sim.requests import CacheScope, MediaItem, Request, Sampling
from pymotor.engines.sim.times import Profile

SIZE = 4


class Follower:
    """Knows the cache by its events only: for each key the one before it and the tokens and extra keys."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[object, ...]] = {}

    def take(self, events: CacheEvents) -> None:
        for event in events.take():
            if isinstance(event, Stored):
                parent = event.parent
                for index, key in enumerate(event.keys):
                    tokens = event.tokens[index * SIZE : (index + 1) * SIZE]
                    self.known[key] = (parent, tokens, event.extra_keys[index])
                    parent = key
            elif isinstance(event, Removed):
                del self.known[event.key]
            else:
                assert isinstance(event, Cleared)
                self.known.clear()

    def matched(self, each: Request) -> int:
        """Tokens that the prefix cache would give to this request."""
        copy = request(each.tokens.tolist(), each.media, each.scope)
        extend_keys(copy, (len(each.tokens) - 1) // SIZE, SIZE)
        found = 0
        for key in copy.keys:
            if key not in self.known:
                break
            found += SIZE
        return found


def request(
    tokens: list[int], media: tuple[MediaItem, ...] = (), scope: CacheScope | None = None, max_tokens: int = 6
) -> Request:
    words = np.array(tokens, dtype=np.uint64)
    scope = scope or CacheScope()
    return Request("r", words, Sampling(max_tokens=max_tokens, ignore_eos=True), media, scope=scope)


def core(events: CacheEvents, **options: object) -> EngineCore:
    chosen = {"num_blocks": 64, "block_size": SIZE, "max_num_batched_tokens": 24} | options
    return EngineCore(CoreOptions(**chosen), Profile(), events=events)  # type: ignore[arg-type]


def item(seed: int, offset: int, tokens: int) -> MediaItem:
    return MediaItem(f"item-{seed}", "image", offset, tokens, {}, bytes([seed]) * 32)


@st.composite
def prompts(draw: st.DrawFn) -> Request:
    tokens = draw(st.lists(st.integers(0, 1), min_size=1, max_size=30))
    media = (item(draw(st.integers(0, 2)), len(tokens) // 2, 1),) if draw(st.booleans()) else ()
    adapter = draw(st.sampled_from([None, Adapter("a", 1, "/a")]))
    return request(tokens, media, CacheScope(adapter, draw(st.sampled_from([None, "salt"]))))


@settings(max_examples=60)
@given(st.lists(prompts(), min_size=1, max_size=12), st.integers(10, 40), st.randoms(use_true_random=False))
def test_events_tell_what_the_cache_holds_whatever_happens(
    requests: list[Request], blocks: int, chance: random.Random
) -> None:
    events, follower = CacheEvents(), Follower()
    engine = core(events, num_blocks=blocks, max_num_seqs=4)
    for each in requests:
        engine.add(each)
    for _ in range(400):
        if not engine.has_work:
            break
        what = chance.random()
        if what < 0.05:
            engine.abort(chance.choice(requests))
        elif what < 0.1:
            engine.pool.forget_all()
        elif what < 0.15 and engine.running:
            engine.pool.scribble(engine.running[-1].blocks[-1:])
        engine.step(0.0)
        engine.pool.check()
        follower.take(events)
        held = {key for key in follower.known if engine.pool.match([key])}
        assert held == set(follower.known)
        assert len(held) == engine.pool.cached_count
    assert not engine.has_work


@settings(max_examples=60)
@given(st.lists(prompts(), min_size=2, max_size=12), st.integers(10, 40))
def test_what_events_predict_is_what_the_engine_counts(requests: list[Request], blocks: int) -> None:
    events, follower = CacheEvents(), Follower()
    engine = core(events, num_blocks=blocks)
    for each in requests:
        predicted, before = follower.matched(each), engine.counters.prefix_cache_hits
        engine.add(each)
        while engine.has_work:
            engine.step(0.0)
        assert engine.counters.prefix_cache_hits - before == predicted
        follower.take(events)
    assert engine.counters.prefix_cache_queries == sum(len(each.tokens) for each in requests)


def test_a_prompt_is_told_once_with_its_parent_and_its_output() -> None:
    events = CacheEvents()
    engine = core(events)
    first = request(list(range(9)), max_tokens=8)
    engine.add(first)
    while engine.has_work:
        engine.step(0.0)
    told = [event for event in events.take() if isinstance(event, Stored)]
    assert [len(event.keys) for event in told] == [2, 1, 1]
    assert [event.parent for event in told] == [None, told[0].keys[-1], told[1].keys[-1]]
    assert told[0].tokens == tuple(range(8))
    assert told[1].tokens == (8, *first.output[:3])
    engine.add(request([*range(9), *first.output[:7], 99], max_tokens=1))
    engine.step(0.0)
    assert list(events.take()) == []
    assert engine.counters.prefix_cache_hits == 16


def test_an_evicted_block_is_told_and_forgotten() -> None:
    events = CacheEvents()
    engine = core(events, num_blocks=3)
    for start in (0, 100):
        engine.add(request([start + n for n in range(9)], max_tokens=1))
        engine.step(0.0)
    first, *removed, second = events.take()
    assert isinstance(first, Stored)
    assert isinstance(second, Stored)
    assert {event.key for event in removed if isinstance(event, Removed)} == set(first.keys)


def test_extra_keys_say_where_an_item_begins() -> None:
    events = CacheEvents()
    engine = core(events)
    scope = CacheScope(Adapter("a", 1, "/a"), "salt", "session")
    engine.add(request([7] * 13, (item(1, 2, 4), item(2, 6, 1)), scope, max_tokens=1))
    engine.step(0.0)
    (event,) = events.take()
    assert isinstance(event, Stored)
    assert event.extra_keys == (("a", ("item-1", 2), "salt"), ("a", ("item-1", -2), ("item-2", 2)), ("a",))
    assert event.scope.session_id == "session"


def test_without_prefix_caching_nothing_is_told() -> None:
    events = CacheEvents()
    engine = core(events, prefix_caching=False)
    engine.add(request(list(range(20))))
    while engine.has_work:
        engine.step(0.0)
    assert list(events.take()) == []
