"""Which accelerators an engine server sees."""

from __future__ import annotations

from collections.abc import Sequence

VISIBLE_DEVICES = {"gpu": "CUDA_VISIBLE_DEVICES", "cpu": ""}
"""The variable by hardware_type; every other type is an Ascend product."""

ASCEND_VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"


def device_environment(hardware: str, devices: Sequence[int]) -> dict[str, str]:
    """The environment that shows a server exactly these devices; nothing on a CPU."""
    name = VISIBLE_DEVICES.get(hardware, ASCEND_VISIBLE_DEVICES)
    if not name or not devices:
        return {}
    return {name: ",".join(str(device) for device in devices)}
