"""An endpoint as a worker uses it, groups of them to choose from, and reservations on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from pymotor.coordinator.http.upstream_pool import SharedState, UpstreamPool
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, TENTHS_PER_HELD_TOKEN, Ledger
from pymotor.fleet import Endpoint, Instance


class Target:
    """One endpoint: its row in the ledger and its connections."""

    __slots__ = (
        "endpoint_id",
        "generation",
        "head_starts",
        "host_header",
        "instance",
        "ledger",
        "pool",
        "retired",
        "row",
        "url",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        instance: Instance,
        ledger: Ledger,
        row: int,
        generation: int,
        shared: SharedState,
    ) -> None:
        parts = urlsplit(endpoint.url)
        host = parts.hostname or "127.0.0.1"
        port = parts.port or 80
        self.endpoint_id = endpoint.id
        self.url = endpoint.url
        self.head_starts: dict[bytes, bytes] = {}
        """By path, what every request's head to it begins with."""
        self.instance = instance
        self.ledger = ledger
        self.row = row
        self.generation = generation
        self.retired = False
        """Whether its ledger row belongs to another endpoint by now."""
        self.pool = UpstreamPool(host, port, shared)
        self.host_header = f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()


class Reservation:
    """A charge held on an endpoint from the choice of it until the end of the leg; `end` is called exactly once."""

    __slots__ = ("_held", "_load", "_open", "target")

    def __init__(self, target: Target, active_tokens: int, held_tokens: int = 0) -> None:
        """Charge `active_tokens` of work and `held_tokens` of KV cache."""
        self.target = target
        self._held = held_tokens * TENTHS_PER_HELD_TOKEN
        self._load = active_tokens * TENTHS_PER_ACTIVE_TOKEN + self._held
        self._open = True
        target.ledger.begin(target.row, self._load)

    def worked(self) -> None:
        """The work is done; only the KV cache is still held."""
        target = self.target
        if not target.retired:
            target.ledger.ease(target.row, self._load - self._held)
        self._load = self._held

    def end(self) -> None:
        """Release all that is left. Raises `RuntimeError` the second time."""
        if not self._open:
            raise RuntimeError(f"the reservation on {self.target.endpoint_id} was released twice")
        self._open = False
        target = self.target
        if not target.retired:
            target.ledger.end(target.row, self._load)

    @property
    def open(self) -> bool:
        """Whether it still has to be ended."""
        return self._open


class Group:
    """Endpoints that can stand in for each other, in fixed order."""

    __slots__ = ("cursor", "row_array", "rows", "targets")

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self.rows = [target.row for target in targets]
        self.row_array = np.array(self.rows, dtype=np.intp)
        self.cursor = 0
        """Where the policy goes on, so that equals take turns."""

    def __len__(self) -> int:
        return len(self.targets)


class Policy(Protocol):
    """Chooses who gets a leg."""

    def choose(self, group: Group, avoid: frozenset[str]) -> Target | None:
        """One of the group whose endpoint id is not in `avoid`, or None when there is none."""
