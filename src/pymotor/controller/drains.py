"""Draining: what for, and when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pymotor.controller.nodes import KnownNode
from pymotor.fleet import FleetWatch, Role


class Purpose(str, Enum):
    """What comes after a drain. The words begin `drain_reason`, so that a new leader goes on with it."""

    STAY = "drained"
    RESTART = "restarts"
    REMOVE = "is removed"
    SCALE_IN = "is one too many"
    LEAVE = "a node leaves"
    SWITCH = "changes its role to"

    @property
    def ends(self) -> bool:
        """Whether the instance goes afterwards."""
        return self not in (Purpose.STAY, Purpose.RESTART)

    @property
    def releases(self) -> bool:
        """Whether its nodes are not used again."""
        return self in (Purpose.REMOVE, Purpose.SCALE_IN)


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain of an instance."""

    purpose: Purpose
    why: str
    """In words for a person; may be empty."""
    since: float
    limit: float
    """Seconds after which it counts as drained whatever still runs."""
    role: Role | None = None
    """What its nodes become, for `Purpose.SWITCH`."""
    version: int | None = None
    """Of the first snapshot that says so; None: none does yet."""
    done: bool = False

    @property
    def reason(self) -> str:
        """As it stands in orders and snapshots."""
        words = f"{self.purpose.value} {self.role.value}" if self.role is not None else self.purpose.value
        return f"{words}: {self.why}" if self.why else words


def drain_from(reason: str, since: float, limit: float) -> Drain:
    """The drain that an order's `drain_reason` tells of."""
    words, _, why = reason.partition(": ")
    for purpose in Purpose:
        if purpose is Purpose.SWITCH:
            role = words.removeprefix(f"{purpose.value} ")
            if role in {known.value for known in Role}:
                return Drain(purpose, why, since, limit, role=Role(role))
        elif words == purpose.value:
            return Drain(purpose, why, since, limit)
    return Drain(Purpose.STAY, reason, since, limit)


@dataclass(slots=True)
class KnownCoordinator:
    """What a Coordinator said last, and when."""

    watch: FleetWatch
    heard: float


def what_runs(
    drain: Drain,
    endpoints: Iterable[str],
    nodes: Iterable[KnownNode],
    coordinators: Iterable[KnownCoordinator],
    epoch: int,
) -> str:
    """Why the instance is not drained yet, in words; empty: nothing is known to run.

    `coordinators`: those that are still heard of.
    """
    if drain.version is None:
        return "no snapshot says yet that it drains"
    ids = tuple(endpoints)
    for known in coordinators:
        if known.watch.epoch != epoch or known.watch.version < drain.version:
            return f"Coordinator {known.watch.coordinator} does not know yet"
        legs = sum(known.watch.in_flight.get(endpoint, 0) for endpoint in ids)
        if legs:
            return f"{legs} requests of Coordinator {known.watch.coordinator}"
    for node in nodes:
        if node.silent:
            continue
        loads = [server for server in node.report.servers if server.load_known]
        if loads and node.heard <= drain.since:
            return f"node {node.name} has not reported since"
        work = sum(server.running + server.waiting for server in loads)
        if work:
            return f"{work} requests in the engines of node {node.name}"
    return ""
