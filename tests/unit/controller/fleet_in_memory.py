"""A core and model nodes that talk without a network, by a clock that only the test moves."""

from __future__ import annotations

from typing import Any

from model_node import ModelNode
from pymotor.controller.events import Event
from pymotor.controller.fleet_state import FleetState
from pymotor.controller.groups import Group
from pymotor.controller.operations import Operations
from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import FleetSnapshot, FleetWatch, InstanceState, decode_snapshot


class FleetInMemory:
    """Everything that happens in it happens in the test's order."""

    def __init__(self, *nodes: ModelNode, **limits: Any) -> None:
        self.now = 1000.0
        self.settings = ControllerSettings(**limits)
        self.nodes = list(nodes)
        self.core = FleetState(1, self.settings, self.now, listens=False)

    @property
    def operations(self) -> Operations:
        return Operations(self.core)

    @property
    def snapshot(self) -> FleetSnapshot:
        return decode_snapshot(self.core.book.snapshot_json())

    @property
    def states(self) -> dict[str, str]:
        return {instance.name: instance.state.value for instance in self.snapshot.instances}

    @property
    def seats(self) -> dict[str, list[str]]:
        return {group.name: group.seats for group in self.core.book.groups.values()}

    def group(self, name: str) -> Group:
        return self.core.book.groups[name]

    def say(self, node: ModelNode) -> None:
        """A report and its answer."""
        self.core.report(node.report(), self.now)
        node.take(self.core.reply(node.name))

    def rounds(self, count: int = 4, *silent: ModelNode) -> None:
        """Each of so many seconds all nodes but the silent ones report, and their servers go on."""
        for _ in range(count):
            self.now += 1.0
            for node in self.nodes:
                if node not in silent:
                    self.say(node)
                    node.work()
            self.core.tick(self.now)

    def new_leader(self) -> None:
        """Another Controller leads; it knows the numbers and nothing else."""
        self.core = FleetState(self.core.epoch + 1, self.settings, self.now, numbers=self.core.numbers)

    def watch(self, coordinator: str = "c", **in_flight: int) -> FleetSnapshot | None:
        """A Coordinator that has the newest snapshot and says so."""
        book = self.core.book
        flying = {endpoint.replace("__", "/").replace("_", "-"): legs for endpoint, legs in in_flight.items()}
        watch = FleetWatch(coordinator=coordinator, epoch=book.epoch, version=book.version, in_flight=flying)
        newest = self.core.watch(watch, self.now)
        return decode_snapshot(newest) if newest is not None else None

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.core.history.after(0) if event.kind == kind]


def active(fleet: FleetInMemory) -> bool:
    return all(group.state is InstanceState.ACTIVE for group in fleet.core.book.groups.values())
