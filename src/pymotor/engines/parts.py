"""How one instance is spread over several nodes: which ranks a node has, and which of its servers answer requests."""

from __future__ import annotations

from dataclasses import dataclass

from pymotor.engines.plan import PlanError


@dataclass(frozen=True, kw_only=True)
class InstancePart:
    """One node's place in its instance."""

    node_rank: int = 0
    nodes: int = 1
    """How many nodes form the instance."""
    master_address: str = ""
    """Where the other nodes reach the node of rank 0."""
    identity: str = ""
    """What all nodes of one run of the instance have in common and no other run has; empty with one node, which makes
    its own."""

    def __post_init__(self) -> None:
        """Raises PlanError for a place that there is not."""
        if not 0 <= self.node_rank < self.nodes:
            raise PlanError(f"there is no node {self.node_rank} of {self.nodes}")
        if self.nodes > 1 and not (self.master_address and self.identity):
            raise PlanError("an instance of several nodes needs the address of its first one and an identity")


WHOLE = InstancePart()
"""All of an instance on one node."""


@dataclass(frozen=True)
class Spread:
    """What of an instance's data parallel ranks is on one node."""

    ranks: range
    """Global numbers of the ranks that have a server here, whole or in part."""
    nodes_per_rank: int
    """More than 1 where one rank spans nodes."""
    headless: bool
    """Whether the server here has no HTTP endpoint: its rank answers on another node."""


def spread_of(part: InstancePart, data: int, devices: int, stated_nodes: object, *, server_per_rank: bool) -> Spread:
    """What this node has of `data` ranks with `devices` devices in all.

    `stated_nodes`: the user's `nnodes`, None where there is none. `server_per_rank`: whether each rank has a server
    of its own; otherwise one server stands for all ranks. Raises PlanError when the ranks cannot be spread so.
    """
    if part.nodes == 1:
        return Spread(range(data if server_per_rank else 1), 1, headless=False)
    if data % part.nodes and part.nodes % data:
        raise PlanError(
            f"{data} data parallel ranks cannot be spread evenly over {part.nodes} nodes; make one a multiple of the "
            "other"
        )
    if devices % part.nodes:
        raise PlanError(f"the parallel sizes need {devices} devices, which {part.nodes} nodes cannot share evenly")
    nodes_per_rank = max(1, part.nodes // data)
    if stated_nodes not in (None, 1, nodes_per_rank, part.nodes):
        raise PlanError(
            f"engine_config says nnodes {stated_nodes}, but {part.nodes} nodes for {data} data parallel ranks are "
            f"{nodes_per_rank} for each; leave it out, or change the number of pods of an instance"
        )
    if not server_per_rank:
        return Spread(range(1), nodes_per_rank, headless=part.node_rank > 0)
    if nodes_per_rank > 1:
        rank = part.node_rank // nodes_per_rank
        return Spread(range(rank, rank + 1), nodes_per_rank, headless=part.node_rank % nodes_per_rank > 0)
    each = data // part.nodes
    first = part.node_rank * each
    return Spread(range(first, first + each), 1, headless=False)
