"""What happens to the prefix cache, as other programs may want to follow it: collected by the core, sent by others.

Which blocks an event names, and that the blocks which a prefix was found in are not told again, is as in vLLM 0.32
(`vllm/v1/core/block_pool.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymotor.engines.sim.requests import CacheScope, ExtraKeys


@dataclass(frozen=True)
class Stored:
    """Consecutive full blocks of one request can be found from now on."""

    keys: tuple[bytes, ...]
    parent: bytes | None
    """Key of the block before the first; None where the first begins the prompt."""
    tokens: tuple[int, ...]
    """Token ids of all these blocks."""
    extra_keys: tuple[ExtraKeys, ...]
    """For each block what its key depends on besides tokens."""
    scope: CacheScope


@dataclass(frozen=True)
class Removed:
    """The block of this key was taken for something else."""

    key: bytes


@dataclass(frozen=True)
class Cleared:
    """Nothing can be found any more."""


CacheEvent = Stored | Removed | Cleared


class CacheEvents:
    """Events since they were last taken, in order."""

    def __init__(self) -> None:
        self._events: list[CacheEvent] = []

    def add(self, event: CacheEvent) -> None:
        """One more."""
        self._events.append(event)

    def take(self) -> Sequence[CacheEvent]:
        """All of them; the next call returns only what comes later."""
        events, self._events = self._events, []
        return events
