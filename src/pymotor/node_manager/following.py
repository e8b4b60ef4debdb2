"""What to do about the newest order, given what runs: decided without doing anything."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum

from pymotor.fleet import NodeOrder, ReportReply

logger = logging.getLogger(__name__)


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


class HeldOrder:
    """The order that a node follows, out of all that its reports are answered with."""

    def __init__(self) -> None:
        self.order: NodeOrder | None = None
        """None: none yet."""
        self._newest_epoch = -1

    def take(self, reply: ReportReply) -> bool:
        """Take the answer's order over, unless it is an older one; whether its order is now the one that is held."""
        if reply.epoch < self._newest_epoch:
            logger.warning("a reply of epoch %d is refused: %d was seen", reply.epoch, self._newest_epoch)
            return False
        order = reply.order
        self._newest_epoch = max(reply.epoch, order.epoch if order is not None else -1)
        if order is None or order == self.order:
            return order is not None
        if not accepts(order, self.order, self._newest_epoch):
            logger.warning("an order of epoch %d, revision %d is refused: a newer one is held", *order.age)
            return False
        self.order = order
        return True


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
