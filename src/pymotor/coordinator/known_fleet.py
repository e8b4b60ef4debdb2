"""The fleet as the Coordinator knows it: which snapshots are taken, and the ledger rows of their endpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from pymotor.coordinator.control import FleetUpdate
from pymotor.coordinator.pairing import AUTOMATIC, PairingRules
from pymotor.coordinator.readiness import Readiness, readiness
from pymotor.coordinator.scheduling.row_book import RowBook
from pymotor.fleet import Endpoint, FleetSnapshot, Instance


class SnapshotRefusedError(ValueError):
    """A snapshot is older than what is known, or contradicts itself; the message says which."""


class KnownFleet:
    """The newest snapshot and the ledger rows that belong to it; kept by the supervisor alone.

    What was accepted stays until something newer comes.
    """

    def __init__(self, ledger_rows: int, rules: PairingRules = AUTOMATIC) -> None:
        """`ledger_rows` is how many endpoints the ledger has room for; `rules` say who may work together."""
        self._rules = rules
        self._readiness = readiness(None)
        self._book = RowBook(ledger_rows)
        self._ledger_rows = ledger_rows
        self._received: FleetSnapshot | None = None
        self._update: FleetUpdate | None = None

    @property
    def snapshot(self) -> FleetSnapshot | None:
        """The fleet as it is known now; None before the first snapshot."""
        return None if self._update is None else self._update.snapshot

    @property
    def update(self) -> FleetUpdate | None:
        """What the workers are told about it."""
        return self._update

    @property
    def readiness(self) -> Readiness:
        """What the fleet can do and what it lacks."""
        return self._readiness

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances that are known."""
        return () if self._update is None else self._update.snapshot.instances

    def row(self, endpoint: Endpoint) -> int:
        """The ledger row of an endpoint of `instances`; raises `KeyError` for any other."""
        if self._update is None:
            raise KeyError(endpoint.id)
        return self._update.rows[endpoint.id][0]

    def row_of(self, endpoint_id: str) -> int | None:
        """The ledger row of an endpoint by its id; None for one that is not known."""
        found = None if self._update is None else self._update.rows.get(endpoint_id)
        return None if found is None else found[0]

    def accept(self, snapshot: FleetSnapshot) -> FleetUpdate | None:
        """Take a snapshot over; None when it is the one that was accepted last.

        An incomplete snapshot changes and adds instances but removes none.
        Raises `SnapshotRefusedError` and keeps what was known when the snapshot is older than the last one, has
        its number but other content, names an instance or endpoint twice, or has more endpoints than the
        ledger has rows.
        """
        last = self._received
        if last is not None:
            former, offered = (last.epoch, last.version), (snapshot.epoch, snapshot.version)
            if offered < former:
                raise SnapshotRefusedError(
                    f"its epoch and version {offered} are older than {former}, which is known; "
                    "a maker that starts anew must raise the epoch"
                )
            if offered == former:
                if snapshot == last:
                    return None
                raise SnapshotRefusedError(
                    f"it differs from the one known with the same epoch and version {former}; "
                    "each change must raise the version"
                )
        fleet = snapshot if snapshot.complete else self._completed(snapshot)
        endpoints = [endpoint.id for instance in fleet.instances for endpoint in instance.endpoints]
        _refuse_doubles("instance", (instance.name for instance in fleet.instances))
        _refuse_doubles("endpoint", endpoints)
        if len(endpoints) > self._ledger_rows:
            raise SnapshotRefusedError(
                f"it has {len(endpoints)} endpoints, and the ledger has {self._ledger_rows} rows"
            )
        self._received = snapshot
        self._update = FleetUpdate(snapshot=fleet, rows=self._book.assign(endpoints))
        self._readiness = readiness(fleet, self._rules)
        return self._update

    def _completed(self, snapshot: FleetSnapshot) -> FleetSnapshot:
        """The incomplete snapshot with the instances that were known and that it does not name."""
        named = {instance.name for instance in snapshot.instances}
        kept = tuple(instance for instance in self.instances if instance.name not in named)
        return msgspec.structs.replace(snapshot, instances=snapshot.instances + kept)


def _refuse_doubles(kind: str, names: Iterable[str]) -> None:
    doubles = [name for name, count in Counter(names).items() if count > 1]
    if doubles:
        raise SnapshotRefusedError(f"it names {kind} {doubles[0]!r} more than once")
