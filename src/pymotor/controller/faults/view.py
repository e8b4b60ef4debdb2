"""The fleet as the policies, the alarms and the inventory look at it: plain values, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pymotor.controller.faults.levels import FaultLevel, HardwareFault, same_device
from pymotor.fleet import Endpoint, InstanceState, Role


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as its NodeManager reported it."""

    name: str
    machine: str = ""
    """Empty where it did not say; then no fault of hardware is its own."""
    address: str = ""
    device_ids: tuple[str, ...] = ()
    """Empty: not known."""
    role: Role
    """What it was set up for; of a spare node, what it is to be."""
    roles: tuple[Role, ...] = ()
    """What it could be beside that."""
    nodes_per_instance: int = 1
    silent: bool = False
    """Nothing was heard of it for the node timeout."""
    endpoints: tuple[Endpoint, ...] = ()
    """Its own, with their present states."""
    ranktable: str = ""
    """Its device table (JSON text), where it has one."""

    def can_be(self, role: Role) -> bool:
        """Whether it may play that role."""
        return role is self.role or role in self.roles

    def touched_by(self, fault: HardwareFault) -> bool:
        """Whether a fault is one of its machine and devices."""
        if not self.machine or fault.machine != self.machine:
            return False
        if not fault.device or not self.device_ids:
            return True
        return any(same_device(fault.device, own) for own in self.device_ids)


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """An instance with its nodes."""

    name: str
    role: Role
    state: InstanceState
    since: float
    """When it came to that state, in seconds of the same clock as `FleetView.now`."""
    nodes: tuple[NodeView, ...] = ()
    load: float = 0.0
    """Requests that its engines run or hold waiting."""
    separated: bool = False
    """A fault of hardware keeps it out of service, by an earlier decision."""
    cordoned: bool = False
    """An operator keeps it out of service."""
    models: tuple[str, ...] = ()
    engine: str = ""
    fault: str = ""

    @property
    def number(self) -> int:
        """The number in its name; -1 where there is none."""
        end = self.name.rpartition("-")[2]
        return int(end) if end.isdecimal() else -1

    @property
    def active(self) -> bool:
        """Whether it takes new requests."""
        return self.state is InstanceState.ACTIVE


class CoordinatorView(msgspec.Struct, frozen=True, kw_only=True):
    """A Coordinator that was heard of."""

    name: str
    heard: bool
    """Whether it was heard of not long ago."""


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration allows."""

    fault_tolerance: bool = True
    """Off: no decision at all."""
    scale_p2d: bool = True
    token_reinference: bool = True
    scale_p2d_wait: float = 30.0
    """Seconds for which a decode instance is out before another takes its place."""
    scale_p2d_pause: float = 60.0
    """Seconds between two changes of one role."""
    scale_p2d_limit: float = 1800.0
    """Seconds after which a change that did not come about is no longer waited for."""
    scale_p2d_release: bool = False
    """Whether instances whose nodes cannot switch are released, because pods of another role follow on their devices.

    Off by default: a container that ends is started again in its pod, which keeps its devices, unless something
    deletes the pod."""


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A decode instance that served and is out."""

    name: str
    nodes: int
    since: float
    """When it was first seen so."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of roles that was decided and is waited for."""

    leaving: tuple[str, ...]
    """The instances that were given up, by name."""
    role: Role
    """What there will be more of."""
    goal: int
    """How many active instances of `role` there should be then."""
    decided: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the policies have to remember from one look to the next; it may be lost (a new leader has none)."""

    served: Mapping[str, int] = {}
    """Nodes of the decode instances that were seen active, by name."""
    lost: tuple[Lost, ...] = ()
    change: Change | None = None
    changed: Mapping[Role, float] = {}
    """When a role was last changed."""
    told: frozenset[str] = frozenset()
    """Events that were written and whose cause is still there."""


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    now: float
    """Seconds of a clock that never goes back."""
    complete: bool = True
    """False while a new leader still listens: then nothing is decided."""
    instances: tuple[InstanceView, ...] = ()
    spare_nodes: tuple[NodeView, ...] = ()
    """Nodes without an instance."""
    targets: Mapping[Role, int] = {}
    """How many instances of each role are wanted."""
    capped: frozenset[Role] = frozenset()
    """Roles of which the core forms no more instances than are wanted, those that are separated or silent not
    counted."""
    faults: tuple[HardwareFault, ...] = ()
    faults_known: bool = True
    """Whether `faults` is the whole truth; False until every source was read once."""
    coordinators: tuple[CoordinatorView, ...] = ()
    switches: Switches = Switches()

    def of_role(self, role: Role) -> tuple[InstanceView, ...]:
        """Its instances, in the order of their names' numbers."""
        return tuple(sorted((one for one in self.instances if one.role is role), key=lambda one: one.number))

    def active(self, role: Role) -> int:
        """How many take new requests."""
        return sum(one.active for one in self.instances if one.role is role)

    def worst(self, nodes: tuple[NodeView, ...]) -> HardwareFault | None:
        """The worst fault that touches one of these nodes; None: they are healthy."""
        touching = [fault for fault in self.faults if any(node.touched_by(fault) for node in nodes)]
        return max(touching, key=lambda fault: fault.level, default=None)

    def level(self, nodes: tuple[NodeView, ...]) -> FaultLevel:
        """How bad it is with them."""
        worst = self.worst(nodes)
        return FaultLevel.HEALTHY if worst is None else worst.level
