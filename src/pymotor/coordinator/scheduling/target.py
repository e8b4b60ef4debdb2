"""An endpoint as a worker uses it, groups of them to choose from, and reservations on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from pymotor.coordinator.http.upstream_pool import SharedState, UpstreamPool
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, TENTHS_PER_HELD_TOKEN, Ledger, Rows
from pymotor.coordinator.scheduling.loads import FEW, Loads
from pymotor.fleet import Endpoint, Instance

_ENDLESS = 1 << 62
"""Longer than any sequence."""


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
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
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
        self.pool = UpstreamPool(host, port, shared, secure=secure)
        self.host_header = f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()


class Reservation(msgspec.Struct, eq=False):
    """A charge held on an endpoint from the choice of it until the end of the leg; `end` is called exactly once. A
    `Struct`, since making one has to cost little: `Reservation.on` makes them."""

    target: Target
    _work: int
    _load: int
    _kv: int
    _spare: int
    open: bool = True
    """Whether it still has to be ended."""

    @staticmethod
    def on(
        target: Target,
        active_tokens: int,
        held_tokens: int = 0,
        *,
        answer_tokens: int = 0,
        kv_tokens: int = 0,
        spare_tokens: int = 0,
    ) -> Reservation:
        """Charge `active_tokens` of work that is over before the leg is, `answer_tokens` of work until its end, and
        `held_tokens` of KV cache. `kv_tokens` of KV cache are promised to the leg; `spare_tokens` of them are for
        what it generates."""
        work = active_tokens * TENTHS_PER_ACTIVE_TOKEN
        load = work + answer_tokens * TENTHS_PER_ACTIVE_TOKEN + held_tokens * TENTHS_PER_HELD_TOKEN
        if not target.retired:
            target.ledger.begin(target.row, load, kv_tokens)
        return Reservation(target, work, load, kv_tokens, spare_tokens)

    def worked(self) -> None:
        """The work on the prompt is done; the KV cache is still held, and what the answer costs is still to come."""
        work = self._work
        if not work or not self.open:
            return
        self._work = 0
        self._load -= work
        target = self.target
        if not target.retired:
            target.ledger.ease(target.row, work)

    def grow(self, tokens: int) -> None:
        """So many more tokens are held in the KV cache. After the end: nothing."""
        if not self.open:
            return
        load = tokens * TENTHS_PER_HELD_TOKEN
        self._load += load
        kv = 0
        if self._kv:
            kv = max(0, tokens - self._spare)
            self._spare = max(0, self._spare - tokens)
            self._kv += kv
        target = self.target
        if not target.retired:
            target.ledger.grow(target.row, load, kv)

    def end(self) -> None:
        """Release all that is left. Raises `RuntimeError` the second time."""
        if not self.open:
            raise RuntimeError(f"the reservation on {self.target.endpoint_id} was released twice")
        self.open = False
        target = self.target
        if not target.retired:
            target.ledger.end(target.row, self._load, self._kv)


class Held:
    """Endpoints whose legs are over and which must stay all the same: what those legs made is yet to be fetched from
    there. Costs them no load; `end` may be called again."""

    __slots__ = ("_targets", "open")

    def __init__(self) -> None:
        self._targets: list[Target] = []
        self.open = True
        """Whether it still has to be ended."""

    def add(self, target: Target) -> None:
        """Hold this one too; after the end: nothing."""
        if self.open and not target.retired:
            target.ledger.hold(target.row)
            self._targets.append(target)

    def end(self) -> None:
        """All was fetched, or never will be."""
        self.open = False
        for target in self._targets:
            if not target.retired:
                target.ledger.let_go(target.row)
        self._targets.clear()


class Sizes(NamedTuple):
    """Of a group's endpoints, in tokens."""

    kv_capacity: npt.NDArray[np.int64]
    """0: the fleet does not say."""
    longest: npt.NDArray[np.int64]
    """Of prompt and answer together."""
    known: bool
    """Whether the fleet says any `kv_capacity`."""


class Group:
    """Endpoints that can stand in for each other, in fixed order."""

    __slots__ = ("_on_host", "_places", "_sizes", "cursor", "endpoint_ids", "row_array", "row_index", "rows", "targets")

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self.endpoint_ids = tuple(target.endpoint_id for target in targets)
        self.rows = [target.row for target in targets]
        self.row_array = np.array(self.rows, dtype=np.intp)
        self.row_index: Rows = self.row_array
        """The rows for `Ledger.loads`, which is quicker where they follow each other."""
        if self.rows and self.rows == list(range(self.rows[0], self.rows[0] + len(self.rows))):
            self.row_index = slice(self.rows[0], self.rows[-1] + 1)
        self._places: dict[str, int] | None = None
        self._on_host: dict[str, list[int]] | None = None
        self._sizes: Sizes | None = None
        self.cursor = 0
        """Where the policy goes on, so that equals take turns."""

    def __len__(self) -> int:
        return len(self.targets)

    def place_of(self, endpoint_id: str) -> int | None:
        """Where that endpoint is in `targets`, if it is."""
        if self._places is None:
            self._places = {target.endpoint_id: place for place, target in enumerate(self.targets)}
        return self._places.get(endpoint_id)

    def places_on(self, host: str) -> Sequence[int]:
        """The places of the endpoints of that host, ascending."""
        if self._on_host is None:
            self._on_host = {}
            for place, target in enumerate(self.targets):
                self._on_host.setdefault(target.pool.host, []).append(place)
        return self._on_host.get(host, ())

    def loads(self, ledger: Ledger) -> Loads:
        """As `ledger` has them now."""
        return ledger.listed_loads(self.rows) if len(self.rows) <= FEW else ledger.loads(self.row_index)

    @property
    def sizes(self) -> Sizes:
        """What was told of the endpoints' sizes."""
        if self._sizes is None:
            instances = [target.instance for target in self.targets]
            capacity = [instance.kv_capacity_tokens or 0 for instance in instances]
            longest = [_ENDLESS if (most := instance.max_model_len) is None else most for instance in instances]
            self._sizes = Sizes(np.array(capacity, np.int64), np.array(longest, np.int64), any(capacity))
        return self._sizes


class Policy(Protocol):
    """Chooses who gets a leg."""

    def choose(self, group: Group, avoid: frozenset[str]) -> Target | None:
        """One of the group whose endpoint id is not in `avoid`, or None when there is none."""
