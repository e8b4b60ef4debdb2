"""Whatever becomes of events on their way, the index never says that an engine holds more than it does."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model_kv_cache import ModelKvCache, Prompt

from pymotor.fleet.prefix_queries import PrefixQuery
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.events import decode_batch
from pymotor.kv_conductor.publisher_view import PublisherView

RANKS = (1, 1, 2)
"""Of each endpoint."""
REPLAYABLE = 3
"""Messages that an engine can send again."""


@dataclass
class Follower:
    """Takes messages as the protocol asks: a gap is replayed or ends what was known, a number that goes back means
    that the engine started anew."""

    cache: ModelKvCache
    view: PublisherView
    following: int = 0
    held_back: list[tuple[int, bytes]] = field(default_factory=list)

    def reconnected(self) -> None:
        """The connection ended with the engine's process. Numbers alone do not tell a restart of which so many
        messages were lost that the next has the number that was due."""
        self.held_back.clear()
        self.view.clear()
        self.following = 0

    def take(self, number: int, payload: bytes) -> None:
        if number < self.following:
            self.view.clear()
            self.following = 0
        if number > self.following:
            self._replay(number)
        if number == self.following:
            self.view.apply(decode_batch(payload))
            self.following += 1

    def _replay(self, until: int) -> None:
        again = [message for message in self.cache.sent[-REPLAYABLE:] if self.following <= message[0] < until]
        if len(again) < until - self.following:
            self.view.clear()
        for number, payload in again:
            self.view.apply(decode_batch(payload))
            self.following = number + 1
        self.following = until


class Fleet:
    def __init__(self) -> None:
        self.core = ConductorCore(lambda: 0.0)
        self.followers: list[list[Follower]] = []
        for endpoint, ranks in enumerate(RANKS):
            views = self.core.follow(f"u-{endpoint}", ["qwen"], ranks)
            self.followers.append(
                [
                    Follower(
                        ModelKvCache(f"{endpoint}-{rank}", older=endpoint == 1, cpu_capacity=40 * (rank == 0)), view
                    )
                    for rank, view in enumerate(views)
                ]
            )

    def all(self) -> list[Follower]:
        return [follower for followers in self.followers for follower in followers]

    def said(self, prompt: Prompt) -> list[tuple[int, int]]:
        query = PrefixQuery(1, "qwen", memoryview(array("I", prompt.tokens)).cast("B"), [], prompt.adapter, prompt.salt)
        matches = self.core.match("coordinator", query)
        matching = self.core._matching
        for marks in (matching._on_device, matching._in_any_tier, matching._expected):
            assert not marks.any(), "a question leaves nothing for the next"
        by_slot = dict(
            zip(
                np.frombuffer(matches.slots, "<u2").tolist(),
                zip(
                    np.frombuffer(matches.on_device, "<u4").tolist(),
                    np.frombuffer(matches.in_any_tier, "<u4").tolist(),
                    strict=True,
                ),
                strict=True,
            )
        )
        followed = self.core.followed().endpoints
        by_name = {followed[slot]: values for slot, values in by_slot.items()}
        return [by_name.get(f"u-{endpoint}", (0, 0)) for endpoint in range(len(RANKS))]

    def end(self) -> None:
        """Nothing is left of what was told."""
        for follower in self.all():
            follower.view.clear()
        index = self.core.index
        assert (index.entries, len(index.blocks), set(index.sets._uses[1:])) in ((0, 0, {0}), (0, 0, set()))

    def true(self, prompt: Prompt) -> list[tuple[int, int]]:
        held = [[follower.cache.held(prompt) for follower in followers] for followers in self.followers]
        return [(min(own[0] for own in ranks), min(own[1] for own in ranks)) for ranks in held]


PROMPTS = [
    Prompt((*range(family, family + shared), *range(own, own + 4 * length)), adapter, salt)
    for family in (0, 1000)
    for shared in (0, 6, 30)
    for own, length in ((5000, 1), (6000, 9), (7000, 30))
    for adapter, salt in (("", ""), ("lora", ""), ("", "salt"))
]
places = st.integers(0, sum(RANKS) - 1)
serving = st.tuples(st.just("serve"), places, st.sampled_from(PROMPTS), st.booleans())
changes = st.one_of(
    serving,
    serving,
    serving,
    st.tuples(st.just("lose"), places, st.integers(0, 59), st.sampled_from((1, 1, 2, 20))),
    st.tuples(st.just("lose beginnings"), places, st.sampled_from((1, 2, 8)), st.none()),
    st.tuples(st.just("clear"), places, st.none(), st.none()),
    st.tuples(st.just("restart"), places, st.none(), st.none()),
)
AT_ONE = st.one_of(
    st.tuples(st.just("serve"), st.just(3), st.sampled_from(PROMPTS), st.booleans()),
    st.tuples(st.just("lose beginnings"), st.just(3), st.sampled_from((1, 2, 8)), st.none()),
    st.tuples(st.just("lose"), st.just(3), st.just(0), st.sampled_from((1, 20, 60))),
)
"""Of an engine without other tiers: prompts that begin alike lose their beginnings, then much of the rest at once."""
WITH_COPIES = st.one_of(
    changes, changes, st.tuples(st.just("serve a copy"), places, st.sampled_from(PROMPTS), st.none())
)
FATES = ("arrives", "arrives", "arrives", "lost", "doubled", "late")


def change(follower: Follower, kind: str, what: object, more: object) -> None:
    if kind == "serve":
        assert isinstance(what, Prompt)
        follower.cache.serve(what, bool(more))
    elif kind == "lose":
        assert isinstance(what, int)
        assert isinstance(more, int)
        follower.cache.lose(what, more)
    elif kind == "lose beginnings":
        assert isinstance(what, int)
        follower.cache.lose_beginnings(what)
    elif kind == "serve a copy":
        assert isinstance(what, Prompt)
        follower.cache.serve(what, copy=1)
    elif kind == "clear":
        follower.cache.clear()
    else:
        follower.cache.restart()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.lists(changes, max_size=30), st.lists(AT_ONE, min_size=4, max_size=30)))
@example(
    [*[("serve", 3, prompt, False) for prompt in PROMPTS[::3]], ("lose beginnings", 3, 1, None), ("lose", 3, 0, 60)]
)
@example(
    [*[("serve", 3, prompt, False) for prompt in PROMPTS[::3]], ("lose beginnings", 3, 8, None), ("lose", 3, 0, 60)]
)
def test_with_nothing_lost_the_index_equals_what_engines_hold(steps: list[tuple[str, int, object, object]]) -> None:
    fleet = Fleet()
    followers = fleet.all()
    for kind, place, what, more in steps:
        change(followers[place], kind, what, more)
        followers[place].take(*followers[place].cache.message())
    for prompt in PROMPTS:
        assert fleet.said(prompt) == fleet.true(prompt), prompt
    fleet.end()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(WITH_COPIES, st.sampled_from(FATES)), max_size=40))
@example([((kind, 3, PROMPTS[9], None), "arrives") for kind in ("serve", "serve a copy", "clear", "serve", "serve")])
def test_with_messages_lost_doubled_and_late_the_index_never_says_more(
    steps: list[tuple[tuple[str, int, object, object], str]],
) -> None:
    fleet = Fleet()
    followers = fleet.all()
    for (kind, place, what, more), fate in steps:
        follower = followers[place]
        change(follower, kind, what, more)
        if kind == "restart":
            follower.reconnected()
        message = follower.cache.message()
        if fate == "late":
            follower.held_back.append(message)
            continue
        if fate != "lost":
            follower.take(*message)
        if fate == "doubled":
            follower.take(*message)
        for late in follower.held_back:
            follower.take(*late)
        follower.held_back.clear()
    for follower in followers:
        follower.take(*follower.cache.message())
    for prompt in PROMPTS:
        for said, true in zip(fleet.said(prompt), fleet.true(prompt), strict=True):
            assert said[0] <= true[0], prompt
            assert said[1] <= true[1], prompt
    fleet.end()


def test_the_model_itself_evicts_and_offloads() -> None:
    """So that the properties above are about something."""
    cache = ModelKvCache("own")
    for prompt in PROMPTS:
        cache.serve(prompt)
    assert len(cache.device) > 40
    assert len(cache.cpu) == cache.cpu_capacity
    assert any(on_device != anywhere for on_device, anywhere in map(cache.held, PROMPTS))
