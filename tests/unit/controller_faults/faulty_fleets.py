"""Fleets for the tests of policies, alarms and inventory."""

from __future__ import annotations

from typing import Any

from pymotor.controller.faults.levels import FaultLevel, HardwareFault
from pymotor.controller.faults.view import FleetView, InstanceView, NodeView, Switches
from pymotor.fleet import Endpoint, EndpointState, InstanceState, Role

ROLES = {"encode": Role.ENCODE, "prefill": Role.PREFILL, "decode": Role.DECODE, "union": Role.UNION}


def a_node(name: str, role: Role, **more: Any) -> NodeView:
    settings: dict[str, Any] = {"machine": f"machine-of-{name}", "address": "10.0.0.1", "role": role}
    return NodeView(name=name, **{**settings, **more})


def an_instance(
    name: str, state: InstanceState = InstanceState.ACTIVE, *, nodes: int = 1, node: Any = None, **more: Any
) -> InstanceView:
    """`node`: settings of its nodes."""
    role = ROLES[name.rpartition("-")[0]]
    own = tuple(a_node(f"{name}.{rank}", **{"role": role, **(node or {})}) for rank in range(nodes))
    settings: dict[str, Any] = {"role": role, "since": 0.0, "nodes": own, "models": ("m",), "engine": "vllm"}
    return InstanceView(name=name, state=state, **{**settings, **more})


def a_fleet(*instances: InstanceView, now: float = 1000.0, **more: Any) -> FleetView:
    targets = {role: sum(one.role is role for one in instances) for role in {one.role for one in instances}}
    return FleetView(**{"now": now, "instances": instances, "targets": targets, **more})


def a_fault(machine: str, level: FaultLevel = FaultLevel.L6, *, device: str = "", code: int = 0x80CD8008) -> Any:
    return HardwareFault(machine=machine, device=device, code=code, level=level, words="broken")


def an_endpoint(name: str, state: EndpointState = EndpointState.READY) -> Endpoint:
    return Endpoint(id=name, url="http://10.0.0.1:8000", state=state)


SWITCHED_OFF = Switches(fault_tolerance=False)
