"""What engines say of their own load and size, put into the ledger by the supervisor.

Where several Coordinators share a fleet (`engine_load_interval`), each sees in an engine's metrics also what the
others sent. What is beyond its own requests is charged as theirs:

    requests of others = max(0, running + waiting - own in flight)
    load of others     = requests of others * mean charge of an own request at endpoints of that role
    KV of others       = max(0, usage * capacity - KV promised to own requests)

Own requests count as at the engine as long as their reservation is held, so that others are rather estimated too low
than too high. A reading that is three intervals old counts for nothing.

The KV capacity of decode endpoints, which requests with media need to know, is read once where the snapshot does not
say it, whatever the interval.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from time import monotonic

import httpx

from pymotor.control_plane.bounded_reading import UnboundedError, read_bounded
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.coordinator.control import FleetUpdate
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, Ledger
from pymotor.engines.metrics_reading import EngineLoad, read_load
from pymotor.fleet import Endpoint, EndpointState, Instance, Role

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Engines that are read at the same time."""
_LONGEST_BYTES = 16 * 1024 * 1024
_STALE_INTERVALS = 3
_TYPICAL_LOAD = 1000 * TENTHS_PER_ACTIVE_TOKEN
"""Charge of a request where there was none of our own to learn from."""
_SMOOTHING = 0.3
_LOOK_SECONDS = 0.5
"""How often the fleet is looked at: whether rows have changed hands, whether a capacity is not known."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_SHORTEST_TIMEOUT = 1.0


class _Pause:
    """When an engine that did not tell its capacity is asked again."""

    __slots__ = ("ends", "seconds")

    def __init__(self) -> None:
        self.seconds = _FIRST_PAUSE
        self.ends = 0.0

    def begin(self) -> None:
        self.ends = monotonic() + self.seconds
        self.seconds = min(_LONGEST_PAUSE, 2 * self.seconds)


class EngineReadings:
    """Reads engines for as long as it runs; kept by the supervisor alone."""

    def __init__(self, fleet: KnownFleet, ledger: Ledger, interval: float, tls: ClientTLS | None = None) -> None:
        """`interval`: seconds between two readings of an engine's load; 0: it is not read. `tls`: for engines at https
        addresses."""
        self._fleet = fleet
        self._ledger = ledger
        self._interval = interval
        self._tls = tls
        self._next_reading = 0.0
        self._update: FleetUpdate | None = None
        self._owners: dict[int, tuple[str, int]] = {}
        self._read_at: dict[int, float] = {}
        self._pauses: dict[str, _Pause] = {}
        self._typical: dict[Role, float] = {}

    async def run(self) -> None:
        """Until it is cancelled. An engine that does not answer holds up no other."""
        transport = RenewedTransport(self._tls, httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=0))
        timeout = max(_SHORTEST_TIMEOUT, self._interval)
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
            while True:
                self._follow_fleet()
                due = self._due(monotonic())
                if due:
                    await asyncio.gather(*(self._read(client, timeout, *place) for place in due))
                self._forget_stale()
                await asyncio.sleep(min(_LOOK_SECONDS, self._interval or _LOOK_SECONDS))

    # -- which

    def _due(self, now: float) -> list[tuple[Instance, Endpoint]]:
        ready = [
            (instance, endpoint)
            for instance in self._fleet.instances
            for endpoint in instance.endpoints
            if endpoint.state is EndpointState.READY
        ]
        if self._interval and now >= self._next_reading:
            self._next_reading = now + self._interval
            return ready
        return [place for place in ready if self._lacks_capacity(*place)]

    def _lacks_capacity(self, instance: Instance, endpoint: Endpoint) -> bool:
        if instance.role is not Role.DECODE or instance.kv_capacity_tokens is not None:
            return False
        if self._ledger.capacity(self._fleet.row(endpoint)):
            return False
        pause = self._pauses.get(endpoint.id)
        return pause is None or pause.ends <= monotonic()

    def _follow_fleet(self) -> None:
        """Forget what was read of endpoints whose rows belong to others by now."""
        update = self._fleet.update
        if update is None or update is self._update:
            return
        self._update = update
        owners = {row: (endpoint_id, generation) for endpoint_id, (row, generation) in update.rows.items()}
        for row, owner in self._owners.items():
            if owners.get(row) != owner:
                self._ledger.set_others(row, 0, 0)
                self._ledger.set_capacity(row, 0, 0)
                self._read_at.pop(row, None)
        self._owners = owners
        self._pauses = {name: pause for name, pause in self._pauses.items() if name in update.rows}

    def _forget_stale(self) -> None:
        oldest = monotonic() - _STALE_INTERVALS * self._interval
        for row, read_at in list(self._read_at.items()):
            if read_at < oldest:
                self._ledger.set_others(row, 0, 0)
                del self._read_at[row]

    # -- one engine

    async def _read(self, client: httpx.AsyncClient, timeout: float, instance: Instance, endpoint: Endpoint) -> None:
        try:
            text = await asyncio.wait_for(metrics_text(client, endpoint.url), timeout)
        except (httpx.HTTPError, httpx.InvalidURL, asyncio.TimeoutError, ValueError) as error:
            logger.debug("%s does not tell its load: %s", endpoint.id, error or "no answer in time")
            self._pauses.setdefault(endpoint.id, _Pause()).begin()
            return
        update = self._fleet.update
        if update is None or update is not self._update:
            # The fleet has changed meanwhile: the row may be another's, and the next reading comes soon.
            return
        row = self._fleet.row(endpoint)
        found = read_load(instance.engine, text)
        if found.kv_capacity_tokens is not None:
            self._ledger.set_capacity(row, found.kv_capacity_tokens, found.block_tokens or 0)
        else:
            self._pauses.setdefault(endpoint.id, _Pause()).begin()
        if self._interval and found.requests is not None:
            self._ledger.set_others(row, *self._others(instance.role, row, found))
            self._read_at[row] = monotonic()

    def _others(self, role: Role, row: int, found: EngineLoad) -> tuple[int, int]:
        """Tenths of a token of load, and tokens of KV, that other gateways' requests are estimated at."""
        ledger = self._ledger
        own = ledger.in_flight(row)
        if own:
            mean = ledger.charged(row) / own
            former = self._typical.get(role, mean)
            self._typical[role] = former + _SMOOTHING * (mean - former)
        requests = max(0, (found.requests or 0) - own)
        kv = 0
        if found.kv_usage is not None and found.kv_capacity_tokens is not None:
            used = int(min(1.0, found.kv_usage) * found.kv_capacity_tokens)
            kv = max(0, used - ledger.promised(row))
        return requests * int(self._typical.get(role, _TYPICAL_LOAD)), kv


@contextlib.asynccontextmanager
async def reading_engines(
    fleet: KnownFleet, ledger: Ledger, interval: float, tls: ClientTLS | None = None
) -> AsyncIterator[None]:
    """Engines are read as long as the block runs; see `EngineReadings`."""
    task = asyncio.create_task(EngineReadings(fleet, ledger, interval, tls).run())
    task.add_done_callback(_tell)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("engines are not asked for their load any more", exc_info=task.exception())


async def metrics_text(client: httpx.AsyncClient, url: str) -> str:
    """The text of the metrics of the engine at `url`. Raises `httpx.HTTPError`, `ValueError` when it is none."""
    async with client.stream("GET", f"{url}/metrics") as reply:
        reply.raise_for_status()
        try:
            body = await read_bounded(reply.aiter_bytes(), _LONGEST_BYTES)
        except UnboundedError as error:
            raise ValueError(f"its metrics are {error}") from error
    return body.decode("utf-8", "replace")
