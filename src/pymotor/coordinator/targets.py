"""The endpoints that a worker knows."""

from __future__ import annotations

from pymotor.coordinator.control import FleetUpdate
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Target
from pymotor.fleet import EndpointState


class Targets:
    """The endpoints of the newest snapshot, kept alive from one snapshot to the next."""

    def __init__(self, ledger: Ledger, shared: SharedState) -> None:
        self._ledger = ledger
        self._shared = shared
        self._by_id: dict[str, Target] = {}
        self._by_row: dict[int, Target] = {}

    def update(self, update: FleetUpdate) -> dict[str, Target]:
        """The targets of a snapshot; those not in it any more close their idle connections."""
        found: dict[str, Target] = {}
        for instance in update.snapshot.instances:
            for endpoint in instance.endpoints:
                row, generation = update.rows[endpoint.id]
                target = self._by_id.get(endpoint.id)
                if target is None or target.generation != generation or target.row != row or target.url != endpoint.url:
                    target = Target(endpoint, instance, self._ledger, row, generation, self._shared)
                    self._take_row(target)
                target.instance = instance
                target.pool.suspect = endpoint.state in (EndpointState.UNHEALTHY, EndpointState.GONE)
                found[endpoint.id] = target
        for endpoint_id, target in self._by_id.items():
            if found.get(endpoint_id) is not target:
                target.pool.close()
        self._by_id = found
        return found

    def _take_row(self, target: Target) -> None:
        former = self._by_row.get(target.row)
        if former is not None and former.generation != target.generation:
            former.retired = True
            self._ledger.clear_own_row(target.row)
        self._by_row[target.row] = target

    def close_idle(self) -> None:
        """Close all idle connections: what they were opened with is no longer good."""
        for target in self._by_id.values():
            target.pool.close_idle()

    def close_expired(self, now: float) -> None:
        """Close idle connections that the engines are about to close."""
        for target in self._by_id.values():
            target.pool.close_expired(now)
