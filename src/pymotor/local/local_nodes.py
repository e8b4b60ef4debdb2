"""The NodeManagers of one fleet: as many as the Controller wants, each kept running while it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass

from pymotor.engines import KeptServers
from pymotor.fleet import Role
from pymotor.local.controller_view import SeenFleet, SeenNode, SeenRole
from pymotor.local.events import Event, Note
from pymotor.local.own_processes import OwnProcesses
from pymotor.local.plan import NODE_GRACE, FleetPlan, NodePlan

NODE_SILENCE = 30.0
"""Seconds after which a NodeManager that the Controller does not hear of is ended, to start again."""


@dataclass
class _LocalNode:
    plan: NodePlan
    kept: KeptServers
    keeping: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.plan.server.name


class LocalNodes:
    """`starts()`, then `keep()` and `follow()` again and again; `cancel()` before `stop()`.

    A node that was released ends for good; one that fails is started again, with growing pauses, as long as it is
    wanted. An instance of a local fleet has one node.
    """

    def __init__(
        self,
        plan: FleetPlan,
        processes: OwnProcesses,
        show: Callable[[Event], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`failed` hears of what is nobody's plan: that keeping a node itself went wrong."""
        self._plan = plan
        self._processes = processes
        self._show = show
        self._failed = failed
        self._nodes: dict[str, _LocalNode] = {}
        for node in plan.nodes:
            self._enter(node)
        self._problems: dict[str, str] = {}

    @property
    def kept(self) -> tuple[KeptServers, ...]:
        """All that are there."""
        return tuple(node.kept for node in self._nodes.values())

    def keep(self) -> None:
        """From now on those that were started are started again when they end."""
        for node in self._nodes.values():
            self._keep_by(node, node.kept.keep())

    async def follow(self, seen: SeenFleet) -> None:
        """Do what the Controller's view asks for: start nodes, end those that have become needless or hang."""
        self._tell_problems(seen.nodes)
        if seen.complete:
            for role in seen.roles:
                self._start_missing(role, seen)
                await self._end_needless(role, seen)
        await self._end_silent(seen)

    async def cancel(self) -> None:
        """Start nothing again."""
        tasks = [node.keeping for node in self._nodes.values() if node.keeping is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, grace: float) -> None:
        """End all of them."""
        await asyncio.gather(*(self._processes.stop(kept, grace) for kept in self.kept))

    def _enter(self, plan: NodePlan) -> _LocalNode:
        node = _LocalNode(plan, self._processes.kept_node(plan.server))
        self._nodes[node.name] = node
        return node

    def _keep_by(self, node: _LocalNode, keeping: Coroutine[object, object, None]) -> None:
        node.keeping = asyncio.create_task(keeping)
        node.keeping.add_done_callback(lambda done: self._kept_no_more(node, done))

    def _kept_no_more(self, node: _LocalNode, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failed(error)
        self._leave(node)

    def _leave(self, node: _LocalNode) -> None:
        """It has ended for good: its name, number and accelerators may be another's."""
        if self._nodes.get(node.name) is node:
            del self._nodes[node.name]
            self._plan.give_back(node.plan)
            self._processes.forget(node.name)

    def _start_missing(self, role: SeenRole, seen: SeenFleet) -> None:
        for _ in range(role.missing_nodes - len(self._on_their_way(role.role, seen))):
            node = self._enter(self._plan.further_node(role.role, self._free_number(role.role, seen)))
            self._show(Note(f"{node.name} starts: another {role.role.value} instance is wanted"))
            self._keep_by(node, node.kept.run())

    async def _end_needless(self, role: SeenRole, seen: SeenFleet) -> None:
        """Nodes that have no instance and will get none: their start took longer than the wish for them."""
        if role.target is None:
            return
        busy = {node.name for node in seen.nodes if node.is_busy}
        unseated = [node for node in self._nodes.values() if node.plan.role is role.role and node.name not in busy]
        needless = len(unseated) - max(0, role.target - role.present)
        for node in sorted(unseated, key=lambda node: node.plan.number, reverse=True)[: max(0, needless)]:
            self._show(Note(f"{node.name} is ended: {role.target} {role.role.value} instances are wanted"))
            if node.keeping is not None:
                node.keeping.cancel()
                await asyncio.gather(node.keeping, return_exceptions=True)
            await self._processes.stop(node.kept, NODE_GRACE)
            self._leave(node)

    async def _end_silent(self, seen: SeenFleet) -> None:
        for node in seen.nodes:
            own = self._nodes.get(node.name)
            if node.heard_seconds_ago > NODE_SILENCE and own is not None and own.kept.serving:
                self._show(Note(f"{node.name} is silent and is ended", severity="warning"))
                await asyncio.gather(*(process.stop(0.0) for process in own.kept.processes))

    def _on_their_way(self, role: Role, seen: SeenFleet) -> list[_LocalNode]:
        """Nodes of ours of which the Controller has yet to hear; it may still know a former one of that name."""
        arrived = {node.name for node in seen.nodes if not node.is_former}
        return [node for node in self._nodes.values() if node.plan.role is role and node.name not in arrived]

    def _free_number(self, role: Role, seen: SeenFleet) -> int:
        taken = {node.plan.number for node in self._nodes.values() if node.plan.role is role}
        taken |= {instance.number for instance in seen.instances if instance.role is role}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def _tell_problems(self, nodes: Iterable[SeenNode]) -> None:
        """What a NodeManager says why it cannot run its instance, once."""
        problems = {node.name: node.problem for node in nodes if node.problem}
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                self._show(Note(f"{name}: {problem}", severity="warning"))
        self._problems = problems
