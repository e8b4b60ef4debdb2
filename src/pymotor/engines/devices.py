"""Which accelerators an engine server sees."""

from __future__ import annotations

from collections.abc import Sequence

from pymotor.engines.plan import PlanError
from pymotor.engines.request import PlanRequest

ASCEND_VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
VISIBLE_DEVICES = {"gpu": "CUDA_VISIBLE_DEVICES", "cpu": ""}
"""The variable by hardware_type; every other type is an Ascend product."""


def take_devices(request: PlanRequest) -> tuple[int, ...]:
    """The accelerators of an instance on this node, none without accelerators. Raises PlanError when too few are
    left."""
    if not visible_devices_variable(request.hardware):
        return ()
    wanted = request.sizes.devices // request.part.nodes
    devices = request.host.take_devices(wanted)
    if len(devices) < wanted:
        raise PlanError(f"the parallel sizes need {wanted} devices and {len(devices)} are left on this host")
    return devices


def device_environment(hardware: str, devices: Sequence[int]) -> dict[str, str]:
    """The environment that shows a server exactly these devices; nothing without accelerators."""
    variable = visible_devices_variable(hardware)
    return {variable: ",".join(str(device) for device in devices)} if variable and devices else {}


def visible_devices_variable(hardware: str) -> str:
    """The variable that names a process its accelerators; empty where there are none or nobody said which."""
    return VISIBLE_DEVICES.get(hardware, ASCEND_VISIBLE_DEVICES) if hardware else ""
