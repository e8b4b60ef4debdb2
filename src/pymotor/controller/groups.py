"""An instance as the Controller keeps it: its seats, and how it stands in the fleet."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from pymotor.controller.drains import Drain
from pymotor.controller.instance_states import InstanceFacts, SeatFacts
from pymotor.controller.nodes import KnownNode
from pymotor.fleet import EndpointState, Instance, InstanceState, Role


@dataclass(slots=True)
class Group:
    """Changed by the Controller's core alone; all times are the core's `now`."""

    job: str
    role: Role
    number: int
    since: float
    """When the state began."""
    incomplete_since: float
    """When a node came or went last while some are missing."""
    seats: list[str]
    """The nodes by rank; empty: nobody."""
    generation: int = 1
    cordoned: bool = False
    cordon_reason: str = ""
    separated: str = ""
    drain: Drain | None = None
    ending: bool = False
    """Its nodes are ordered to run nothing, and it goes when they do."""
    reserved: bool = False
    """Nodes that were not heard of since the leader changed may have its free seats."""
    broken: str = ""
    """Why the present generation cannot serve any more, where it has several nodes."""
    restarts: int = 0
    """Generations in vain, one after the other."""
    restart_at: float | None = None
    silent_since: float | None = None
    was_active: bool = False
    """When its nodes fell silent."""
    silence_ignored: bool = False
    """The Controller takes itself for the one that is cut off."""
    shares: dict[int, Instance] = field(default_factory=dict)
    """The last share of each rank."""
    tables: list[str] = field(default_factory=list)
    """The device tables of its nodes, from which these two were made."""
    ranktable: str = ""
    table_problem: str = ""
    state: InstanceState = InstanceState.INITIAL
    fault: str = ""
    public: Instance | None = None
    """As it stands in snapshots; None: it is not in them yet."""

    @property
    def name(self) -> str:
        """`<role>-<number>`."""
        return f"{self.role.value}-{self.number}"

    @property
    def members(self) -> list[str]:
        """The nodes that have a seat."""
        return [node for node in self.seats if node]

    @property
    def complete(self) -> bool:
        """Whether all seats are taken."""
        return all(self.seats)

    @property
    def going(self) -> bool:
        """Whether it will not be there much longer."""
        return self.ending or (self.drain is not None and self.drain.purpose.ends)

    def out(self, nodes: dict[str, KnownNode]) -> bool:
        """Whether faults keep it apart or a node of it is not heard of: until that is over others may stand in."""
        silent = not self.silence_ignored and any(nodes[name].silent for name in self.members)
        return bool(self.separated) or silent

    def facts(self, nodes: dict[str, KnownNode]) -> InstanceFacts:
        """What its state follows from."""
        return InstanceFacts(
            seats=[self._seat(nodes[name]) if name else SeatFacts("") for name in self.seats],
            drain_reason=self.drain.reason if self.drain is not None else "",
            cordoned=self.cordoned,
            cordon_reason=self.cordon_reason,
            separated=self.separated,
            problem=self.table_problem,
        )

    def _seat(self, node: KnownNode) -> SeatFacts:
        return SeatFacts(
            node=node.name,
            silent=node.silent and not self.silence_ignored,
            problem=node.report.problem,
            follows=self.followed_by(node),
            servers=node.report.servers,
        )

    def followed_by(self, node: KnownNode) -> bool:
        """Whether the node's servers are those of the present generation."""
        held = node.report.held
        return (
            held is not None
            and held.instance == self.name
            and held.generation == self.generation == node.report.started_generation
            and bool(node.report.servers)
        )

    def in_fleet(self, nodes: dict[str, KnownNode]) -> Instance | None:
        """Its shares as one instance; None while no node has sent one.

        Names and ids that are not its own are left out: one node's mistake would make a snapshot that nobody takes.
        """
        merged: Instance | None = None
        endpoints = {}
        for rank, name in enumerate(self.seats):
            share = nodes[name].report.share if name else None
            if share is not None and share.name == self.name:
                self.shares[rank] = share
            else:
                share = self.shares.get(rank)
                if share is None:
                    continue
                gone = tuple(replace(endpoint, state=EndpointState.GONE) for endpoint in share.endpoints)
                share = replace(share, endpoints=gone)
            endpoints.update(
                {
                    endpoint.id: endpoint
                    for endpoint in share.endpoints
                    if endpoint.id.startswith(f"{self.name}/") and endpoint.id not in endpoints
                }
            )
            merged = merged or share
        if merged is None:
            return None
        return replace(merged, role=self.role, state=self.state, fault=self.fault, endpoints=tuple(endpoints.values()))
