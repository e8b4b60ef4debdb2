"""All engines' metrics, asked for when somebody wants them: at once, with a deadline, not again within a moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from time import monotonic

import httpx

from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.coordinator.engine_figures import Departed, EngineFigures, Scraped
from pymotor.coordinator.engine_readings import metrics_text
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.engines.metrics_merging import Families, read_families
from pymotor.fleet import Endpoint, EndpointState, Role

logger = logging.getLogger(__name__)

_AT_ONCE = 128
"""Engines that are asked at the same time."""
ENGINE_DEADLINE = 2.0
"""Seconds that an engine has to answer."""
WHOLE_DEADLINE = 5.0
"""Seconds until nobody waits for an answer any more, however many engines there are."""


class EngineScrapes:
    """Asks the ready engines of a fleet for their metrics; kept by the supervisor alone. Use `scraping_engines`."""

    def __init__(self, fleet: KnownFleet, client: httpx.AsyncClient, reuse_seconds: float) -> None:
        """Answers are used again for `reuse_seconds`."""
        self._fleet = fleet
        self._client = client
        self._reuse_seconds = reuse_seconds
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._figures: dict[str, tuple[Role, EngineFigures]] = {}
        self._newest: list[Scraped] = []
        self.departed = Departed()
        """Those that were in the fleet before."""

    async def newest(self) -> list[Scraped]:
        """Every endpoint of the fleet with its figures. Whoever comes while others wait gets what they get."""
        async with self._asking:
            if monotonic() - self._asked_at >= self._reuse_seconds:
                await self._ask()
                self._asked_at = monotonic()
            return self._newest

    async def texts(self) -> dict[str, str]:
        """What those ready engines say now that answer in time, by endpoint id, as it came."""
        places = (endpoint for instance in self._fleet.instances for endpoint in instance.endpoints)
        return await self._texts([endpoint for endpoint in places if endpoint.state is EndpointState.READY])

    async def _ask(self) -> None:
        places = [(instance, endpoint) for instance in self._fleet.instances for endpoint in instance.endpoints]
        asked = [endpoint for _, endpoint in places if endpoint.state is EndpointState.READY]
        texts = await self._texts(asked)
        # Some 10 ms for each engine: the loop also looks after the workers.
        answers = await asyncio.to_thread(_read_all, texts)
        known = {endpoint.id for _, endpoint in places}
        for gone in self._figures.keys() - known:
            self.departed.add(*self._figures.pop(gone))
        newest = []
        for instance, endpoint in places:
            _, figures = self._figures.setdefault(endpoint.id, (instance.role, EngineFigures()))
            families = answers.get(endpoint.id)
            if families is None:
                figures.miss()
            else:
                figures.take(families)
            answered = families is not None if endpoint.state is EndpointState.READY else None
            newest.append(Scraped(instance, endpoint, answered, figures.families()))
        self._newest = newest

    async def _texts(self, asked: list[Endpoint]) -> dict[str, str]:
        """What those say that answer in time, by endpoint id."""
        if not asked:
            return {}
        slots = asyncio.Semaphore(_AT_ONCE)
        tasks = [asyncio.create_task(self._text(endpoint, slots)) for endpoint in asked]
        try:
            await asyncio.wait(tasks, timeout=WHOLE_DEADLINE)
        finally:
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        for one in found:
            if isinstance(one, Exception):
                raise one
        return {endpoint.id: one for endpoint, one in zip(asked, found, strict=True) if isinstance(one, str)}

    async def _text(self, endpoint: Endpoint, slots: asyncio.Semaphore) -> str | None:
        async with slots:
            try:
                return await asyncio.wait_for(metrics_text(self._client, endpoint.url), ENGINE_DEADLINE)
            except (httpx.HTTPError, httpx.InvalidURL, asyncio.TimeoutError, ValueError) as error:
                logger.debug("%s does not tell its metrics: %s", endpoint.id, error or "no answer in time")
                return None


def _read_all(texts: dict[str, str]) -> dict[str, Families]:
    """The metrics in the texts that can be read."""
    found = {endpoint_id: _read(endpoint_id, text) for endpoint_id, text in texts.items()}
    return {endpoint_id: families for endpoint_id, families in found.items() if families is not None}


def _read(endpoint_id: str, text: str) -> Families | None:
    try:
        return read_families(text)
    except ValueError as error:
        logger.debug("what %s tells as its metrics cannot be read: %s", endpoint_id, error)
        return None


@contextlib.asynccontextmanager
async def scraping_engines(
    fleet: KnownFleet, reuse_seconds: float, tls: ClientTLS | None = None
) -> AsyncIterator[EngineScrapes]:
    """Engines can be asked as long as the block runs, those at https addresses by `tls`."""
    transport = RenewedTransport(tls, httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=0))
    async with httpx.AsyncClient(transport=transport, timeout=ENGINE_DEADLINE, trust_env=False) as client:
        yield EngineScrapes(fleet, client, reuse_seconds)
