"""How far the workers are with the fleet, and what is under way at instances that are draining."""

from __future__ import annotations

import asyncio

from pymotor.coordinator.control import Age
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.worker_pool import WorkerPool
from pymotor.fleet import Endpoint, InstanceState


class ToldFleet:
    """A `Progress` of the supervisor's.

    The order of its two questions matters to whoever wants to know that an instance is drained: once no worker routes
    by a snapshot older than `age`, none begins a leg at what is draining in it, so that a zero read after that stays.
    """

    def __init__(self, fleet: KnownFleet, ledger: Ledger, pool: WorkerPool) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._pool = pool

    @property
    def age(self) -> Age | None:
        """See `Progress`."""
        told = self._pool.told
        return None if told is None else told.age

    @property
    def draining(self) -> bool:
        """See `Progress`."""
        return bool(self._draining())

    def in_flight(self) -> dict[str, int]:
        """See `Progress`: legs of all workers, and what others still fetch from there."""
        found = {}
        for endpoint in self._draining():
            # One that has left the newest snapshot has no row any more, and nobody waits for it.
            row = self._fleet.row_of(endpoint.id)
            if row is not None:
                found[endpoint.id] = self._ledger.in_flight(row) + self._ledger.held(row)
        return {endpoint_id: number for endpoint_id, number in found.items() if number}

    async def reached(self, age: Age, deadline: float) -> None:
        """See `Progress`."""
        told = asyncio.ensure_future(self._pool.has_told(age))
        try:
            # Not `wait_for`: before Python 3.12 a cancellation in the moment in which it is told is lost.
            await asyncio.wait([told], timeout=deadline)
        finally:
            told.cancel()

    def _draining(self) -> list[Endpoint]:
        told = self._pool.told
        if told is None:
            return []
        return [
            endpoint
            for instance in told.snapshot.instances
            if instance.state is InstanceState.DRAINING
            for endpoint in instance.endpoints
        ]
