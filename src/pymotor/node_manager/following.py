"""What to do about the newest order, given what runs: decided without doing anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pymotor.fleet import NodeOrder


class Step(Enum):
    """What comes next; after it has been done the question is asked again."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"
    """End the servers, whatever follows: a restart is a stop and then a start."""
    END = "end"
    """The NodeManager's own end: nothing runs, and nothing is wanted any more."""


@dataclass(frozen=True)
class RunKey:
    """What servers were started for; servers of another key have to end before they are started anew."""

    instance: str
    generation: int
    node_rank: int
    nodes: int
    master_address: str

    @classmethod
    def of(cls, order: NodeOrder) -> RunKey:
        """The key of the servers that an order asks for."""
        return cls(order.instance, order.generation, order.node_rank, order.nodes, order.master_address)


def accepts(order: NodeOrder, held: NodeOrder | None, newest_epoch: int) -> bool:
    """Whether an order takes the place of the one that is held. `newest_epoch`: the greatest that was seen, -1 when
    none was."""
    return order.epoch >= newest_epoch and (held is None or order.age > held.age)


def next_step(order: NodeOrder | None, runs: RunKey | None, failed: RunKey | None, *, leaving: bool = False) -> Step:
    """What comes next.

    `runs`: what there are servers for, living or not. `failed`: what could not be planned and is not tried again now.
    `leaving`: the NodeManager was asked to end and starts nothing any more.
    """
    if order is None:
        return Step.NOTHING
    if order.released:
        return Step.END if runs is None else Step.STOP
    if not order.instance:
        return Step.NOTHING if runs is None else Step.STOP
    wanted = RunKey.of(order)
    if runs is not None:
        return Step.STOP if _replaced(runs, wanted) else Step.NOTHING
    if leaving or wanted == failed or (order.nodes > 1 and not order.master_address):
        return Step.NOTHING
    return Step.START


def _replaced(runs: RunKey, wanted: RunKey) -> bool:
    """A smaller generation of the same instance is that of a Controller which has not heard of ours yet."""
    if runs.instance != wanted.instance:
        return True
    if runs.generation != wanted.generation:
        return runs.generation < wanted.generation
    placed_elsewhere = (runs.node_rank, runs.nodes) != (wanted.node_rank, wanted.nodes)
    moved = bool(wanted.master_address) and runs.master_address != wanted.master_address
    return placed_elsewhere or moved
