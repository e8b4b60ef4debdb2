"""What a router knows of the engines' caches: by their events as the KV Conductor does, or exactly and at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prefix_replay.engines import VirtualEngine
from pymotor.engines.sim.prefix_keys import extend_keys
from pymotor.engines.sim.requests import Request
from pymotor.fleet.prefix_queries import PrefixQuery, PrefixRouted
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.events import decode_batch

_MODEL = "model"


class Knowledge(Protocol):
    """What is expected where."""

    def expected(self, request: Request) -> npt.NDArray[np.int64]:
        """Tokens of the request's beginning, for each engine."""

    def routed(self, engine: int) -> None:
        """The request that was asked for last goes to this engine."""

    def told(self, engine: int, payload: bytes) -> None:
        """A message of this engine's KV events arrives."""


class ByEvents:
    """The KV Conductor's own index; events and questions in the form in which they are on the wire."""

    def __init__(self, engines: int, clock: Callable[[], float]) -> None:
        self._core = ConductorCore(clock, secret=bytes(16))
        self._names = [f"union-{number}/0" for number in range(engines)]
        self._views = [self._core.follow(name, (_MODEL,))[0] for name in self._names]
        slots = {name: slot for slot, name in enumerate(self._core.followed().endpoints)}
        self._engine_of = np.zeros(max(slots.values()) + 1, dtype=np.intp)
        for number, name in enumerate(self._names):
            self._engine_of[slots[name]] = number
        self._number = 0

    def expected(self, request: Request) -> npt.NDArray[np.int64]:
        """See `Knowledge`."""
        self._number += 1
        query = PrefixQuery(self._number, _MODEL, memoryview(request.tokens.astype("<u4")).cast("B"))
        matches = self._core.match(self, query)
        found = np.zeros(len(self._names), dtype=np.int64)
        engines = self._engine_of[np.frombuffer(matches.slots, dtype="<u2")]
        found[engines] = np.frombuffer(matches.expected, dtype="<u4")
        return found

    def routed(self, engine: int) -> None:
        """See `Knowledge`."""
        self._core.routed(self, PrefixRouted(self._number, self._names[engine]))

    def told(self, engine: int, payload: bytes) -> None:
        """See `Knowledge`."""
        self._views[engine].apply(decode_batch(payload))


class Exactly:
    """The engines' block pools themselves at the moment of the question, with what is queued there."""

    def __init__(self, engines: Sequence[VirtualEngine], block_size: int) -> None:
        self._engines = engines
        self._block_size = block_size

    def expected(self, request: Request) -> npt.NDArray[np.int64]:
        """See `Knowledge`."""
        usable = (len(request.tokens) - 1) // self._block_size
        extend_keys(request, usable, self._block_size)
        keys = request.keys[:usable]
        held = [engine.holds(keys) for engine in self._engines]
        return np.array(held, dtype=np.int64) * self._block_size

    def routed(self, engine: int) -> None:
        """See `Knowledge`."""

    def told(self, engine: int, payload: bytes) -> None:
        """See `Knowledge`."""
