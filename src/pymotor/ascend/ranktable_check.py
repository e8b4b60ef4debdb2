"""Whether a ranktable is one that the connector can use, and if not, which node and device to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pymotor.ascend.ranktable import is_address

TOP_KEYS = ("version", "server_count", "prefill_device_list", "decode_device_list", "status")
DEVICE_KEYS = ("server_id", "device_id", "device_ip", "cluster_id")
SUPER_POD_KEYS = ("super_pod_id", "super_device_id")
ROLES = ("prefill", "decode")


@dataclass(frozen=True)
class RanktableProblem:
    """One thing that is wrong: where in the file, on which node and device (empty where it is about neither)."""

    severity: Literal["error", "warning"]
    path: str
    message: str
    node: str = ""
    device: str = ""

    def __str__(self) -> str:
        whose = f"node {self.node}, device {self.device}: " if self.node else ""
        return _printable(f"{self.severity}: {self.path}: {whose}{self.message}")

    def as_json(self) -> dict[str, str]:
        """For programs."""
        return {
            "severity": self.severity,
            "path": self.path,
            "node": self.node,
            "device": self.device,
            "message": self.message,
        }


def _printable(text: str) -> str:
    """A file is somebody's words: nothing of them moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclass(frozen=True)
class _Listed:
    path: str
    entry: dict[str, Any]

    def error(self, message: str) -> RanktableProblem:
        return RanktableProblem("error", self.path, message, *self.names())

    def names(self) -> tuple[str, str]:
        return str(self.entry.get("server_id", "?")), str(self.entry.get("device_id", "?"))


def check_ranktable(content: object) -> list[RanktableProblem]:
    """Everything that is wrong with the content of a ranktable file; empty when it is good."""
    if not isinstance(content, dict):
        return [RanktableProblem("error", "$", f"a ranktable is an object, not {type(content).__name__}")]
    problems = list(_top(content))
    listed = []
    for role in ROLES:
        entries = content.get(f"{role}_device_list")
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            path = f"$.{role}_device_list[{number}]"
            if isinstance(entry, dict):
                listed.append(_Listed(path, entry))
            else:
                problems.append(RanktableProblem("error", path, f"a device is an object, not {entry!r:.60}"))
    for device in listed:
        problems += _device(device)
    problems += _generations(listed)
    problems += _doubled(listed)
    problems += _numbering(listed)
    problems += _servers(content, listed)
    return problems


def _top(content: dict[str, Any]) -> Iterator[RanktableProblem]:
    for key in TOP_KEYS:
        if key not in content:
            yield RanktableProblem("error", f"$.{key}", "missing")
    for key in content:
        if key not in TOP_KEYS:
            yield RanktableProblem("warning", f"$.{key}", "not a key of a ranktable")
    for key, wanted in (("version", "1.2"), ("status", "completed")):
        if key in content and content[key] != wanted:
            yield RanktableProblem("error", f"$.{key}", f"must be {wanted!r}, is {content[key]!r:.60}")
    for role in ROLES:
        key = f"{role}_device_list"
        if key in content and (not isinstance(content[key], list) or not content[key]):
            yield RanktableProblem("error", f"$.{key}", "must be a list of at least one device")


def _device(device: _Listed) -> Iterator[RanktableProblem]:
    entry = device.entry
    for key in DEVICE_KEYS:
        if key not in entry:
            yield device.error(f"{key} is missing")
    for key, value in entry.items():
        if key not in DEVICE_KEYS + SUPER_POD_KEYS:
            yield RanktableProblem("warning", device.path, f"{key} is not a key of a device", *device.names())
        elif not isinstance(value, str):
            yield device.error(f"{key} must be a string, is {value!r:.60}")
        elif key in ("server_id", "device_ip"):
            if not is_address(value):
                yield device.error(f"{key} is no IP address: {value!r:.60}")
        elif not (value.isascii() and value.isdecimal()):
            yield device.error(f"{key} is no number: {value!r:.60}")


def _generations(listed: list[_Listed]) -> Iterator[RanktableProblem]:
    """An A3 has both keys of the super pod, an A2 has neither, and all are one or the other."""
    of_a3 = any(key in device.entry for device in listed for key in SUPER_POD_KEYS)
    for device in listed if of_a3 else []:
        missing = [key for key in SUPER_POD_KEYS if key not in device.entry]
        if missing:
            yield device.error(f"{' and '.join(missing)} missing, other devices of the table are of A3 and have it")


def _doubled(listed: list[_Listed]) -> Iterator[RanktableProblem]:
    """One device or one address twice. Addresses of an A3 count within its super pod."""
    for what, keys in (
        ("the device", ("server_id", "device_id")),
        ("device_ip", ("super_pod_id", "device_ip")),
        ("super_device_id", ("super_pod_id", "super_device_id")),
    ):
        places: defaultdict[tuple[Hashable, ...], list[_Listed]] = defaultdict(list)
        for device in listed:
            values = tuple(device.entry.get(key) for key in keys)
            if isinstance(values[-1], str) and all(value is None or isinstance(value, str) for value in values):
                places[values].append(device)
        for values, devices in places.items():
            for device in devices[1:]:
                node, number = devices[0].names()
                named = "" if what == "the device" else f" {values[-1]}"
                yield device.error(f"{what}{named} is there already: {devices[0].path} (node {node}, device {number})")


def _numbering(listed: list[_Listed]) -> Iterator[RanktableProblem]:
    for number, device in enumerate(listed, start=1):
        if device.entry.get("cluster_id", str(number)) != str(number):
            yield device.error(f"cluster_id must be '{number}' here, is {device.entry['cluster_id']!r:.60}")


def _servers(content: dict[str, Any], listed: list[_Listed]) -> Iterator[RanktableProblem]:
    count = content.get("server_count")
    if count is None:
        return
    if not isinstance(count, str) or not count.isdecimal() or not count.isascii() or len(count) > 9 or int(count) == 0:
        yield RanktableProblem("error", "$.server_count", f"must be a number as a string, is {count!r:.60}")
        return
    servers = {str(device.entry.get("server_id")) for device in listed}
    names = ", ".join(sorted(servers))
    if int(count) < len(servers):
        yield RanktableProblem(
            "error", "$.server_count", f"is {count} but devices of {len(servers)} nodes are listed: {names}"
        )
    elif int(count) > len(servers) and listed:
        yield RanktableProblem(
            "warning", "$.server_count", f"is {count}, devices of {len(servers)} are listed: {names}"
        )
