"""What the engines say of themselves, asked for while somebody looks at the dashboard, and no longer."""

from __future__ import annotations

import asyncio
from time import monotonic

import msgspec

from pymotor.coordinator.engine_scrapes import EngineScrapes
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.engines.metrics_reading import EngineLoad, read_load, written_so_far
from pymotor.fleet import Role

SHORTEST_INTERVAL = 2.0
_PART = 20
"""Asking takes at most one part in so many of the time: the loop also looks after the workers."""
LOOKING_SECONDS = 15.0
"""How long somebody looks who has asked once."""


class Said(msgspec.Struct, frozen=True):
    """The newest word of one engine server."""

    load: EngineLoad
    written: float
    """Tokens since its start."""


class EngineWatch:
    """Kept by the supervisor alone; `run` it."""

    def __init__(self, fleet: KnownFleet, engines: EngineScrapes) -> None:
        self._fleet = fleet
        self._engines = engines
        self._looked_at = float("-inf")
        self._somebody = asyncio.Event()
        self._read_at = float("-inf")
        self._tokens: float | None = None
        self.said: dict[str, Said] = {}
        """By endpoint id; empty while nobody looks."""

    def look(self) -> None:
        """Somebody looks."""
        self._looked_at = monotonic()
        self._somebody.set()

    @property
    def tokens_per_second(self) -> float | None:
        """Of all engines that write answers; None where nobody knows."""
        return self._tokens

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._somebody.wait()
            began = monotonic()
            if began - self._looked_at > LOOKING_SECONDS:
                self._somebody.clear()
                self._forget()
                continue
            texts = await self._engines.texts()
            kinds = {endpoint.id: one.engine for one in self._fleet.instances for endpoint in one.endpoints}
            found = await asyncio.to_thread(_read, texts, kinds)
            self._take(found, began)
            await asyncio.sleep(max(SHORTEST_INTERVAL, (monotonic() - began) * _PART))

    def _forget(self) -> None:
        self.said = {}
        self._tokens = None

    def _take(self, found: dict[str, Said], now: float) -> None:
        writing = {
            endpoint.id
            for one in self._fleet.instances
            if one.role in (Role.DECODE, Role.UNION)
            for endpoint in one.endpoints
        }
        if self.said:
            # One that was started anew counts from zero again.
            grown = sum(
                max(0.0, said.written - self.said[name].written)
                for name, said in found.items()
                if name in self.said and name in writing
            )
            self._tokens = grown / max(now - self._read_at, 1e-9)
        self.said = found
        self._read_at = now


def _read(texts: dict[str, str], kinds: dict[str, str]) -> dict[str, Said]:
    return {
        name: Said(read_load(kinds[name], text), written_so_far(text)) for name, text in texts.items() if name in kinds
    }
