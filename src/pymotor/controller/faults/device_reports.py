"""What Kubernetes objects say of a machine's hardware: the ConfigMap of Ascend's device plugin, a Node's condition.

The ConfigMap `mindx-dl-deviceinfo-<node>` has three parts. Each is read for itself; of a part that cannot be read,
whole or in places, what was known before stays, so that a broken report never calls broken hardware healthy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pymotor.controller.faults.levels import NODE_NOT_READY, WHOLE_MACHINE, FaultLevel, HardwareFault, level_of

Faults = tuple[HardwareFault, ...]

DEVICES = "DeviceInfoCfg"
SWITCHES = "SwitchInfoCfg"
TAKEN_OUT = "ManuallySeparateNPU"
_FAULTS_KEY_END = "-Fault"
_LEVEL_KEYS = ("fault_handling", "fault_level", "large_model_fault_level")
"""Three names of one thing; the device plugin recommends the first."""


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine's ConfigMap says."""

    machine: str
    devices: Faults = ()
    switches: Faults = ()
    taken_out: Faults = ()
    """Devices that were taken out of use, by people or because they failed too often."""
    problems: tuple[str, ...] = ()
    """What could not be read, in words."""

    @property
    def faults(self) -> Faults:
        """All of them."""
        return self.devices + self.switches + self.taken_out


class _Part:
    """One part of a ConfigMap, as far as it could be read."""

    def __init__(self) -> None:
        self.faults: list[HardwareFault] = []
        self.complaints: list[str] = []
        self._complete = True
        self._doubtful: set[str] = set()

    def unreadable(self, complaint: str) -> None:
        """Something is left out, and nobody knows of which device it spoke."""
        self.complaints.append(complaint)
        self._complete = False

    def doubtful(self, device: str, complaint: str) -> None:
        """A fault of that device has a level nobody knows."""
        self.complaints.append(complaint)
        self._doubtful.add(device)

    def with_known(self, former: Faults) -> Faults:
        """What was read, and what was known of devices of which that was not the whole truth."""
        read = {fault.device for fault in self.faults}
        codes = {(fault.device, fault.code) for fault in self.faults if fault.device not in self._doubtful}
        kept = [
            fault
            for fault in former
            if (fault.device in self._doubtful or (fault.device not in read and not self._complete))
            and (fault.device, fault.code) not in codes
        ]
        return tuple(dict.fromkeys(self.faults + kept))


def read_device_report(machine: str, data: object, known: DeviceReport | None = None) -> DeviceReport:
    """The faults in a ConfigMap's `data`; never raises. `known`: what the same ConfigMap said before."""
    before = known or DeviceReport(machine=machine)
    problems: list[str] = []
    if not isinstance(data, Mapping) or not ({DEVICES, SWITCHES, TAKEN_OUT} & data.keys()):
        return msgspec.structs.replace(before, problems=(f"has none of {DEVICES}, {SWITCHES}, {TAKEN_OUT}",))

    def part(key: str, former: Faults, read: Callable[[str, object], _Part], *, required: bool) -> Faults:
        if key not in data:
            if required:
                problems.append(f"{key} is missing")
                return former
            return ()
        found = read(machine, data[key])
        problems.extend(f"{key}: {complaint}" for complaint in found.complaints)
        return found.with_known(former)

    return DeviceReport(
        machine=machine,
        devices=part(DEVICES, before.devices, _devices, required=True),
        switches=part(SWITCHES, before.switches, _switches, required=False),
        taken_out=part(TAKEN_OUT, before.taken_out, _taken_out, required=False),
        problems=tuple(problems),
    )


def read_node_condition(machine: str, node: object, known: Faults = ()) -> tuple[Faults, str]:
    """The fault of a Kubernetes Node that is not ready, and what could not be read, in words; never raises.

    Without a readable Ready condition what was `known` stays.
    """
    conditions = _get(_get(node, "status"), "conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if _get(condition, "type") != "Ready":
            continue
        status = _get(condition, "status")
        if status == "True":
            return (), ""
        if status not in ("False", "Unknown"):
            return known, f"its Ready condition is {status!r}"
        reason = _get(condition, "reason")
        words = f"not ready ({reason})" if isinstance(reason, str) and reason else "not ready"
        fault = HardwareFault(machine=machine, code=NODE_NOT_READY, level=FaultLevel.L6, words=words)
        return (fault,), ""
    return known, "it has no Ready condition"


def _devices(machine: str, text: object) -> _Part:
    """`{"DeviceInfo": {"DeviceList": {"huawei.com/Ascend910-Fault": "[…]"}}}`; the list may be JSON within JSON."""
    part = _Part()
    document, complaint = _decoded(text)
    devices = _get(_get(document, "DeviceInfo"), "DeviceList")
    if complaint or not isinstance(devices, Mapping):
        part.unreadable(complaint or "has no DeviceInfo.DeviceList")
        return part
    for key, value in devices.items():
        if not str(key).endswith(_FAULTS_KEY_END):
            continue
        entries, complaint = _decoded(value) if value else ([], "")
        if complaint or not isinstance(entries, list):
            part.unreadable(f"{key} {complaint or 'is no list'}")
            continue
        for entry in entries:
            _read_device(part, machine, entry)
    return part


def _read_device(part: _Part, machine: str, entry: object) -> None:
    """The faults of one device: one for each code, since codes have levels of their own."""
    name = _get(entry, "npu_name")
    whole = _get(entry, "fault_type") == "NodeUnhealthy"
    if not whole and (not isinstance(name, str) or not name.strip()):
        part.unreadable(f"{_short(entry)} names no device")
        return
    device = WHOLE_MACHINE if whole else str(name).strip()
    word = next((_get(entry, key) for key in _LEVEL_KEYS if _get(entry, key)), None)
    overall = level_of(word)
    if overall is None:
        part.doubtful(device, f"{device or machine} has the unknown level {_short(word)}")
    levels = _get(entry, "fault_time_and_level_map")
    words = _get(entry, "fault_type")
    codes = [code.strip() for code in str(_get(entry, "fault_code") or "").split(",") if code.strip()]
    # A level nobody knows is not acted on by itself, but it is kept and seen.
    found = [(code, level_of(_get(_get(levels, code), "fault_level")) or overall or FaultLevel.L1) for code in codes]
    if not found or (overall or FaultLevel.HEALTHY) > max(level for _, level in found):
        # It failed too often or for too long: worse in all than each code by itself.
        found.append(("", overall or FaultLevel.L1))
    part.faults += [
        HardwareFault(
            machine=machine,
            device=device,
            code=_code(code),
            level=level,
            words=words if isinstance(words, str) and words else "fault",
        )
        for code, level in found
    ]


def _switches(machine: str, text: object) -> _Part:
    """`{"FaultTimeAndLevelMap": {"[0x00f1fef5,155914,cpu,na]_0_1": {"fault_level": "NotHandle"}}, "FaultLevel": …}`."""
    part = _Part()
    if text == "":
        return part
    document, complaint = _decoded(text)
    if complaint or not isinstance(document, Mapping):
        part.unreadable(complaint or "is no object")
        return part
    entries = document.get("FaultTimeAndLevelMap") or {}
    if not isinstance(entries, Mapping):
        part.unreadable("FaultTimeAndLevelMap is no object")
        entries = {}
    for key, value in entries.items():
        word = _get(value, "fault_level")
        level = level_of(word)
        if level is None:
            part.doubtful(WHOLE_MACHINE, f"{_short(key)} has the unknown level {_short(word)}")
        part.faults.append(_switch_fault(machine, str(key), level or FaultLevel.L1))
    word = document.get("FaultLevel")
    overall = level_of(word) if word else FaultLevel.HEALTHY
    if overall is None:
        part.doubtful(WHOLE_MACHINE, f"FaultLevel is {_short(word)}, which is unknown")
    elif overall > max((fault.level for fault in part.faults), default=FaultLevel.L1):
        part.faults.append(_switch_fault(machine, "", overall))
    return part


def _switch_fault(machine: str, key: str, level: FaultLevel) -> HardwareFault:
    code = key.strip().removeprefix("[").partition("]")[0].partition(",")[0].partition("_")[0]
    return HardwareFault(machine=machine, code=_code(code), level=level, words="fault of a switch")


def _taken_out(machine: str, text: object) -> _Part:
    """Names with commas between."""
    part = _Part()
    if not isinstance(text, str):
        part.unreadable(f"{_short(text)} is no list of names")
        return part
    names = [name.strip() for name in text.split(",") if name.strip()]
    part.faults = [
        HardwareFault(machine=machine, device=name, code=0, level=FaultLevel.L6, words="taken out of use")
        for name in dict.fromkeys(names)
    ]
    return part


def _decoded(value: object) -> tuple[Any, str]:
    """A value that is JSON text or already decoded, and what is wrong with it."""
    if not isinstance(value, str):
        return value, ""
    try:
        return json.loads(value), ""
    except (ValueError, RecursionError) as error:
        return None, f"is no JSON: {error}"


def _code(text: str) -> int:
    """Codes are hexadecimal, with or without `0x`; 0 for one that is none."""
    try:
        return max(int(text, 16), 0)
    except ValueError:
        return 0


def _get(value: object, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
