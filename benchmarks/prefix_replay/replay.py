"""Requests, steps and events in the order of virtual time."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import msgspec

from prefix_replay.engines import REPORTED_TOKENS, Progress, VirtualEngine
from prefix_replay.knowledge import ByEvents, Exactly, Knowledge
from prefix_replay.policies import ByAffinity, Places, Routed, Router, simple_router
from prefix_replay.trace import BLOCK_TOKENS, TracedRequest
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.engines.sim.cache_events import CacheEvent
from pymotor.engines.sim.kv_event_encoding import EventEncoder
from pymotor.engines.sim.requests import Request, Sampling
from pymotor.engines.sim.times import Profile


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One replay."""

    policy: str
    engines: int
    blocks: int
    """KV blocks of each engine."""
    speed: float
    """How many times faster than the trace requests come."""
    exact: bool = False
    """Affinity knows the engines' caches exactly and at once, in place of their events."""
    rules: AffinityRules | None = None
    """Of affinity; None for other policies."""
    event_delay: float = 0.005
    """Mean seconds, exponential, from the end of a step until its events reach the index."""
    seed: int = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    prompt_tokens: int
    hit_tokens: int
    first_token_seconds: list[float]
    """For each request in the order of arrival."""
    busy_seconds: list[float]
    """For each engine, like the next two."""
    prefilled_tokens: list[int]
    removed_blocks: list[int]
    preemptions: int
    expected_tokens: int
    """Of the chosen engines' caches, where somebody asked."""
    missing_tokens: int
    """Expected, but not there when the request was scheduled."""
    virtual_seconds: float
    wall_seconds: float


@dataclass
class _Underway:
    number: int
    routed: Routed
    arrival: float


@dataclass
class _Timeline:
    now: float = 0.0
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), action))

    def run(self) -> None:
        while self._queue:
            self.now, _, action = heapq.heappop(self._queue)
            action()


class Replay:
    """One run of a scenario; `run` is called once."""

    def __init__(
        self, scenario: Scenario, requests: Sequence[TracedRequest], profile: Profile, *, skips: bool = True
    ) -> None:
        """`skips`: see `VirtualEngine`. Raises ValueError for a policy that is none."""
        self._scenario = scenario
        self._requests = requests
        self._timeline = _Timeline()
        self._chance = random.Random(scenario.seed)
        self._engines = [
            VirtualEngine(scenario.blocks, BLOCK_TOKENS, profile, skips=skips) for _ in range(scenario.engines)
        ]
        self._turns = [0] * scenario.engines
        """Of each engine, which of its ends is the one that counts: a run that was cut leaves one behind."""
        self._knowledge: Knowledge | None = None
        self._router = self._made_router(Places(scenario.engines))
        self._listens = isinstance(self._knowledge, ByEvents)
        self._encoder = EventEncoder("map", BLOCK_TOKENS, hashes_as_bytes=False)
        self._last_event = [0.0] * scenario.engines
        self._underway: dict[Request, _Underway] = {}
        self._first_tokens = [0.0] * len(requests)
        self._expected = self._missing = 0

    def _made_router(self, places: Places) -> Router:
        scenario = self._scenario
        if scenario.rules is not None:
            exactly = Exactly(self._engines, BLOCK_TOKENS)
            self._knowledge = exactly if scenario.exact else ByEvents(scenario.engines, lambda: self._timeline.now)
            return ByAffinity(places, scenario.rules, self._knowledge)
        router = simple_router(scenario.policy, places)
        if router is None:
            raise ValueError(f"{scenario.policy} is no policy of the replay")
        return router

    def run(self) -> Outcome:
        """Everything until the last answer is complete."""
        began = time.monotonic()
        if self._requests:
            self._schedule(0)
        self._timeline.run()
        cores = [engine.core for engine in self._engines]
        assert all(core.idle for core in cores), "requests are left over"
        return Outcome(
            prompt_tokens=sum(core.counters.prefix_cache_queries for core in cores),
            hit_tokens=sum(core.counters.prefix_cache_hits for core in cores),
            first_token_seconds=self._first_tokens,
            busy_seconds=[engine.busy_seconds for engine in self._engines],
            prefilled_tokens=[engine.prefilled_tokens for engine in self._engines],
            removed_blocks=[engine.removed_blocks for engine in self._engines],
            preemptions=sum(core.counters.preemptions for core in cores),
            expected_tokens=self._expected,
            missing_tokens=self._missing,
            virtual_seconds=self._timeline.now,
            wall_seconds=time.monotonic() - began,
        )

    def _schedule(self, number: int) -> None:
        self._timeline.at(self._requests[number].arrival / self._scenario.speed, lambda: self._arrive(number))

    def _arrive(self, number: int) -> None:
        traced = self._requests[number]
        sampling = Sampling(max_tokens=traced.answer_tokens, ignore_eos=True)
        request = Request(f"{number}-00000000", traced.tokens(), sampling)
        routed = self._router.route(request)
        self._underway[request] = _Underway(number, routed, self._timeline.now)
        engine = self._engines[routed.engine]
        engine.add(request)
        if not engine.working:
            self._begin(routed.engine)
        else:
            self._end_at(routed.engine, engine.cut(self._timeline.now))
        if number + 1 < len(self._requests):
            self._schedule(number + 1)

    def _begin(self, number: int) -> None:
        self._end_at(number, self._engines[number].begin(self._timeline.now))

    def _end_at(self, number: int, when: float | None) -> None:
        if when is not None:
            self._turns[number] += 1
            turn = self._turns[number]
            self._timeline.at(when, lambda: self._end(number, turn))

    def _end(self, number: int, turn: int) -> None:
        if turn != self._turns[number]:
            return
        progress, events = self._engines[number].finish()
        if events and self._listens:
            self._send(number, events)
        for each in progress:
            self._take(each)
        self._begin(number)

    def _send(self, number: int, events: Sequence[CacheEvent]) -> None:
        """Events arrive in their order, each message some time after its step."""
        now = self._timeline.now
        delay = self._chance.expovariate(1 / self._scenario.event_delay) if self._scenario.event_delay else 0.0
        when = self._last_event[number] = max(self._last_event[number], now + delay)
        payload = self._encoder.message(now, events, 0)
        self._timeline.at(when, lambda: self._told(number, payload))

    def _told(self, number: int, payload: bytes) -> None:
        assert self._knowledge is not None
        self._knowledge.told(number, payload)

    def _take(self, progress: Progress) -> None:
        request = progress.request
        underway = self._underway[request]
        produced = len(request.output)
        if produced == 1:
            self._first_token(request, underway)
        elif produced % REPORTED_TOKENS == 0:
            underway.routed.reservation.grow(REPORTED_TOKENS)
        if progress.finished:
            underway.routed.reservation.end()
            del self._underway[request]

    def _first_token(self, request: Request, underway: _Underway) -> None:
        self._first_tokens[underway.number] = self._timeline.now - underway.arrival
        underway.routed.reservation.worked()
        if underway.routed.expected is not None:
            self._expected += underway.routed.expected
            self._missing += max(0, underway.routed.expected - (request.cached_tokens or 0))
