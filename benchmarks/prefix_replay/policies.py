"""The Coordinator's own policies, over its own ledger, for engines that exist in virtual time only."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, Protocol

import xxhash

from prefix_replay.knowledge import Knowledge
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.key_choice import KeyChoice
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules, choose_by_affinity, prefill_cost
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.room import EXPECTED_ANSWER_TOKENS
from pymotor.coordinator.scheduling.round_robin import RoundRobin
from pymotor.coordinator.scheduling.target import Group, Reservation, Target
from pymotor.coordinator.scheduling.target import Policy as GroupPolicy
from pymotor.engines.sim.requests import Request
from pymotor.fleet import Endpoint, Instance, Role

_NOBODY: frozenset[str] = frozenset()


class Places:
    """The engines as the Coordinator sees them: targets of one group, and their rows in a ledger."""

    def __init__(self, count: int) -> None:
        descriptor = Ledger.allocate(columns=1, rows=count)
        try:
            self.ledger = Ledger(descriptor, columns=1, rows=count, column=0)
        finally:
            os.close(descriptor)
        shared = SharedState()
        self.group = Group([_target(number, self.ledger, shared) for number in range(count)])
        self._numbers = {target.endpoint_id: number for number, target in enumerate(self.group.targets)}

    def number(self, target: Target | None) -> int:
        """Which engine it is."""
        assert target is not None
        return self._numbers[target.endpoint_id]


def _target(number: int, ledger: Ledger, shared: SharedState) -> Target:
    endpoint = Endpoint(id=f"union-{number}/0", url=f"http://127.0.0.1:{10_000 + number}")
    instance = Instance(name=f"union-{number}", role=Role.UNION, models=("model",), engine="sim", endpoints=(endpoint,))
    return Target(endpoint, instance, ledger, number, 1, shared)


class Routed(NamedTuple):
    """Where a request goes."""

    engine: int
    reservation: Reservation
    expected: int | None
    """Tokens of the prompt that are thought to be there; None where nobody asks."""


class Router(Protocol):
    """Chooses and charges."""

    def route(self, request: Request) -> Routed:
        """Where this request goes."""


class ByLoad:
    """Policies that know nothing of the prompt."""

    def __init__(self, places: Places, policy: GroupPolicy) -> None:
        self._places = places
        self._policy = policy

    def route(self, request: Request) -> Routed:
        """See `Router`."""
        target = self._policy.choose(self._places.group, _NOBODY)
        return _routed(self._places, self._places.number(target), request, len(request.tokens), None)


class ByPrefixHash:
    """The hash of the first tokens, with bounded load."""

    def __init__(self, places: Places, tokens: int) -> None:
        self._places = places
        self._choice = KeyChoice(places.ledger)
        self._tokens = tokens

    def route(self, request: Request) -> Routed:
        """See `Router`."""
        key = xxhash.xxh3_64_intdigest(request.tokens[: self._tokens].tobytes())
        target = self._choice.choose(key, len(request.tokens), self._places.group, _NOBODY)
        return _routed(self._places, self._places.number(target), request, len(request.tokens), None)


class ByAffinity:
    """Where the prompt's beginning is, weighed against load."""

    def __init__(self, places: Places, rules: AffinityRules, knowledge: Knowledge) -> None:
        self._places = places
        self._rules = rules
        self._knowledge = knowledge

    def route(self, request: Request) -> Routed:
        """See `Router`."""
        group, tokens = self._places.group, len(request.tokens)
        expected = self._knowledge.expected(request)
        loads = self._places.ledger.loads(group.row_array)
        index = choose_by_affinity(self._rules, tokens, expected, loads, group.cursor)
        group.cursor = index + 1
        self._knowledge.routed(index)
        found = int(expected[index])
        work = max(1, int(prefill_cost(self._rules, tokens, found)))
        return _routed(self._places, index, request, work, min(found, tokens))


def _routed(places: Places, engine: int, request: Request, work: int, expected: int | None) -> Routed:
    target = places.group.targets[engine]
    reservation = Reservation.on(target, work, len(request.tokens), answer_tokens=EXPECTED_ANSWER_TOKENS)
    return Routed(engine, reservation, expected)


def simple_router(name: str, places: Places) -> Router | None:
    """A policy that needs to know nothing of caches; None for another name."""
    made: dict[str, Callable[[], Router]] = {
        "round_robin": lambda: ByLoad(places, RoundRobin()),
        "load_balance": lambda: ByLoad(places, LoadBalance(places.ledger)),
        "prefix_hash": lambda: ByPrefixHash(places, 256),
        "prefix_hash_1024_tokens": lambda: ByPrefixHash(places, 1024),
    }
    return made[name]() if name in made else None
