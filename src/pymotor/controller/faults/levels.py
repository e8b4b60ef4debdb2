"""How bad a fault of the hardware is, in the levels of Ascend's device plugin, and what a fault is."""

from __future__ import annotations

import re
from enum import IntEnum

import msgspec

WHOLE_MACHINE = ""
"""Stands for all devices of a machine where a fault names none."""

NODE_NOT_READY = 0x1
"""The code of a machine that Kubernetes calls not ready."""
ENGINE_DEAD = 0x1000001
ENGINE_UNHEALTHY = 0x1000002
"""What NodeManagers find wrong with software, of level L2; the restart of the servers is what is done about it."""
NETWORK_CODES = frozenset({0x00F1FEF5, 0x08520003})
"""Faults of the network between devices that break requests under way and pass by themselves."""

_NUMBER_AT_THE_END = re.compile(r"(\d+)$")


class FaultLevel(IntEnum):
    """The greater, the more is lost."""

    HEALTHY = 0
    L1 = 1
    """Nothing to do."""
    L2 = 2
    """Requests under way may be lost; the device goes on."""
    L3 = 3
    """What runs on the device has to start anew."""
    L4 = 4
    """The device has to be reset once it is idle."""
    L5 = 5
    """The device has to be reset now."""
    L6 = 6
    """The device is out of use."""


GREATEST_ENDURED = FaultLevel.L2
"""Instances serve on with faults up to this level."""
LEAST_LOST = FaultLevel.L4
"""From this level on a device does not come back by itself soon."""

# The device plugin has other words for the same levels where a switch is at fault.
_LEVELS = {
    "nothandlefault": FaultLevel.L1,
    "nothandle": FaultLevel.L1,
    "subhealthfault": FaultLevel.L1,
    "restartrequest": FaultLevel.L2,
    "restartrequestfault": FaultLevel.L2,
    "restartbusiness": FaultLevel.L3,
    "freerestartnpu": FaultLevel.L4,
    "restartnpu": FaultLevel.L5,
    "resetfault": FaultLevel.L5,
    "separatenpu": FaultLevel.L6,
    "preseparatenpu": FaultLevel.L6,
    "manuallyseparatenpu": FaultLevel.L6,
    "separate": FaultLevel.L6,
    "separatefault": FaultLevel.L6,
}


class HardwareFault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault that is present."""

    machine: str
    """As Kubernetes calls the node."""
    device: str = WHOLE_MACHINE
    """As the device plugin calls it, `Ascend910-4`; `WHOLE_MACHINE` where all of the machine is meant."""
    code: int
    """0 where none is told."""
    level: FaultLevel
    words: str
    """For a person, without the place."""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self.device} of {self.machine}" if self.device else f"machine {self.machine}"

    def __str__(self) -> str:
        code = f" 0x{self.code:08X}" if self.code else ""
        return f"{self.place}: {self.words}{code} ({self.level.name})"


def level_of(word: object) -> FaultLevel | None:
    """The level that the device plugin means, whatever the case; None for a word nobody knows."""
    return _LEVELS.get(word.strip().lower()) if isinstance(word, str) else None


def same_device(one: str, other: str) -> bool:
    """Whether two names mean the same device of a machine.

    Names differ by who gives them (`Ascend910-4`, `npu-4`, `4`); the number at the end is the physical device's.
    """
    first, second = _NUMBER_AT_THE_END.search(one), _NUMBER_AT_THE_END.search(other)
    if first is None or second is None:
        return one == other
    return int(first[1]) == int(second[1])
