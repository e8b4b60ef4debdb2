"""The Controller's tables: nodes, groups, numbers, and what follows from them, orders and snapshots."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass

from msgspec.structs import replace

from pymotor.controller.drains import KnownCoordinator
from pymotor.controller.events import History
from pymotor.controller.groups import Group
from pymotor.controller.instance_states import state_of
from pymotor.controller.nodes import KnownNode, in_order
from pymotor.controller.ranktables import RanktableError, merged_ranktable
from pymotor.controller.settings import ControllerSettings
from pymotor.engines.kept_servers import FIRST_PAUSE, LONGEST_PAUSE, SETTLED_SECONDS
from pymotor.fleet import EndpointState, FleetSnapshot, InstanceState, NodeOrder, Role, encode_snapshot

NOBODY_KNOWS = ""
"""Stands for a holder of a number whose name is not known."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What became different since it was asked last."""

    orders: frozenset[str]
    """The nodes whose orders are new."""
    snapshot: bool


class FleetBook:
    """Everything that is known; changed by the functions of the core, one at a time. No I/O, no clock."""

    def __init__(
        self, epoch: int, settings: ControllerSettings, history: History, numbers: dict[str, int], listening: bool
    ) -> None:
        """`numbers`: the greatest number given so far, by role."""
        self.epoch = epoch
        self.settings = settings
        self.history = history
        self.listening = listening
        self.nodes: dict[str, KnownNode] = {}
        self.groups: dict[str, Group] = {}
        self.coordinators: dict[str, KnownCoordinator] = {}
        self.numbers = dict(numbers)
        self.targets: dict[str, int] = {}
        self.targets_revision = 0
        self.version = 0
        self.holders: dict[str, set[str]] = {}
        """Instances that are no more, and the nodes that may still run them."""
        self._generations: dict[str, int] = {}
        """The last generation of instances that are no more: the next of that name has a greater one."""
        self._unheard = dict(numbers) if listening else {}
        """By role, the greatest number that a former leader may have given to a node that has not been heard of."""
        self._doubt_until = float("inf")
        self._free: defaultdict[Role, set[int]] = defaultdict(set)
        self._revision = 0
        self._changed: set[str] = set()
        self._told_version = 0
        self._json: tuple[int, bytes] | None = None

    def take_changes(self) -> Changes:
        """What is new since the last call."""
        changes = Changes(frozenset(self._changed), self.version != self._told_version)
        self._changed.clear()
        self._told_version = self.version
        return changes

    def say(self, now: float, kind: str, why: str, group: Group | None = None, node: str = "") -> None:
        """Add an event."""
        self.history.add(now, kind, why, instance=group.name if group is not None else "", node=node)

    # snapshots

    def next_version(self) -> None:
        """Another snapshot is due."""
        self.version += 1

    def snapshot(self) -> FleetSnapshot:
        """The fleet as it stands."""
        groups = sorted(self.groups.values(), key=lambda group: (group.role.value, group.number))
        return FleetSnapshot(
            epoch=self.epoch,
            version=self.version,
            complete=not self.listening,
            instances=tuple(group.public for group in groups if group.public is not None),
        )

    def snapshot_json(self) -> bytes:
        """The same as JSON; made once for each version."""
        if self._json is None or self._json[0] != self.version:
            self._json = (self.version, encode_snapshot(self.snapshot()))
        return self._json[1]

    # orders

    def order(self, node: KnownNode) -> None:
        """Give the node another order when it should do something else than it was told."""
        if self.listening:
            return
        wanted = self._wanted(node)
        last = node.order
        if last is not None and wanted == replace(last, epoch=0, revision=0):
            return
        self._revision += 1
        node.order = replace(wanted, epoch=self.epoch, revision=self._revision)
        if not wanted.instance and last is not None and last.instance:
            node.confirm = node.order.age
        self._changed.add(node.name)

    def order_all(self) -> None:
        """The same for all nodes."""
        for node in self.nodes.values():
            self.order(node)

    def _wanted(self, node: KnownNode) -> NodeOrder:
        group = self.groups.get(node.instance)
        if group is None or group.ending:
            return NodeOrder(
                epoch=0,
                revision=0,
                role=node.assigned_role,
                released=node.released,
                targets=dict(self.targets),
                targets_revision=self.targets_revision,
            )
        ready = group.complete and not group.table_problem
        return NodeOrder(
            epoch=0,
            revision=0,
            instance=group.name,
            role=group.role,
            number=group.number,
            generation=group.generation,
            node_rank=group.seats.index(node.name),
            nodes=len(group.seats),
            master_address=self.nodes[group.seats[0]].report.address if ready else "",
            ranktable=group.ranktable if ready else "",
            draining=group.drain is not None,
            drain_reason=group.drain.reason if group.drain is not None else "",
            cordoned=group.cordoned,
            cordon_reason=group.cordon_reason,
            separated=group.separated,
            targets=dict(self.targets),
            targets_revision=self.targets_revision,
        )

    # groups

    def refresh(self, group: Group, now: float) -> None:
        """Everything that follows from what is known of one instance: its state, its part of the snapshot, orders."""
        self._see_broken(group, now)
        self._join_tables(group)
        state, fault = state_of(group.facts(self.nodes))
        if state is not group.state or fault != group.fault:
            if group.state is InstanceState.ACTIVE and now - group.since >= SETTLED_SECONDS:
                group.restarts = 0
            if state is not group.state:
                group.since = now
            self.say(now, f"instance_{state.value}", fault or "all its servers are ready", group)
            group.state, group.fault = state, fault
        public = group.in_fleet(self.nodes)
        if public != group.public:
            group.public = public
            self.next_version()
        if group.drain is not None and group.drain.version is None:
            group.drain = dataclasses.replace(group.drain, version=self.version)
        for name in group.members:
            self.order(self.nodes[name])

    def _join_tables(self, group: Group) -> None:
        if not group.complete:
            return
        tables = [self.nodes[name].report.ranktable for name in group.seats]
        if tables != group.tables:
            group.tables, group.ranktable, group.table_problem = tables, "", ""
            try:
                group.ranktable = merged_ranktable(tables)
            except RanktableError as error:
                group.table_problem = str(error)

    def _see_broken(self, group: Group, now: float) -> None:
        """Several nodes cannot mend themselves: a new generation is due, after a pause."""
        if len(group.seats) == 1 or self.listening:
            return
        if not group.broken:
            for name in group.members:
                node = self.nodes[name]
                gone = [server for server in node.report.servers if server.state is EndpointState.GONE]
                if gone and group.followed_by(node):
                    group.broken = f"{gone[0].name} of node {name} is gone"
                    break
        if group.broken and group.restart_at is None and group.drain is None:
            if group.state is InstanceState.ACTIVE and now - group.since >= SETTLED_SECONDS:
                group.restarts = 0
            pause = min(FIRST_PAUSE * 2.0 ** min(group.restarts, 16), LONGEST_PAUSE)
            group.restarts += 1
            group.restart_at = now + pause
            self.say(now, "restart_planned", f"{group.broken}; all its nodes start again in {pause:g} s", group)

    def raise_generation(self, group: Group, now: float, why: str) -> None:
        """All nodes of the instance end their servers and start them anew."""
        group.generation += 1
        group.broken, group.restart_at = "", None
        self.say(now, "generation_raised", f"generation {group.generation}: {why}", group)
        self.refresh(group, now)

    def dissolve(self, group: Group, now: float, why: str) -> None:
        """The instance is no more; its nodes are to run nothing, and its number is free when they say so."""
        del self.groups[group.name]
        holders = {NOBODY_KNOWS} if group.reserved and not group.complete else set()
        for name in group.members:
            node = self.nodes.get(name)
            if node is not None:
                node.instance = ""
                self.order(node)
            if node is None or not node.idle:
                holders.add(name)
        self.holders[group.name] = holders
        self._generations[group.name] = group.generation
        self.say(now, "instance_gone", why, group)
        if group.public is not None:
            self.next_version()
        self.let_go(group.name)

    def first_generation(self, instance: str) -> int:
        """That no node has run before, as far as this leader knows."""
        return self._generations.get(instance, 0) + 1

    def let_go(self, instance: str, node: str | None = None) -> None:
        """The node runs nothing of that instance any more; without holders its number is free."""
        holders = self.holders.get(instance)
        if holders is None:
            return
        if node is not None:
            holders.discard(node)
        if not holders:
            del self.holders[instance]
            role, _, number = instance.rpartition("-")
            self._free[Role(role)].add(int(number))

    def next_number(self, role: Role) -> int:
        """A number of the role that nobody has: the least that was given back, else the next."""
        free = self._free[role]
        return min(free) if free else self.numbers.get(role.value, -1) + 1

    def doubt(self, until: float) -> None:
        """Until then nodes of a former leader that were not heard of yet may still run what they were ordered."""
        self._doubt_until = until

    def may_have(self, role: Role, number: int, node: str, now: float) -> bool:
        """Whether the node may have that very number: nobody has it, and nobody unheard may still run it."""
        name = f"{role.value}-{number}"
        if name in self.groups or self.holders.get(name, set()) - {node}:
            return False
        known = name in self.holders or number in self._free[role]
        return known or now >= self._doubt_until or number > self._unheard.get(role.value, -1)

    def found(self, group: Group) -> None:
        """Enter a new group; its number is taken from now on."""
        self.groups[group.name] = group
        self.holders.pop(group.name, None)
        self._free[group.role].discard(group.number)
        self.numbers[group.role.value] = max(self.numbers.get(group.role.value, -1), group.number)

    def of_role(self, role: Role) -> list[Group]:
        """The instances of a role that are to stay, by number."""
        return sorted(
            (group for group in self.groups.values() if group.role is role and not group.going),
            key=lambda group: group.number,
        )

    def standing(self, role: Role) -> list[Group]:
        """Those of them that are not out: by these a number that is wanted is counted."""
        return [group for group in self.of_role(role) if not group.out(self.nodes)]

    def unseated(self) -> list[KnownNode]:
        """Nodes that wait for an instance, in stable order."""
        return sorted((node for node in self.nodes.values() if node.usable), key=lambda node: in_order(node.name))
