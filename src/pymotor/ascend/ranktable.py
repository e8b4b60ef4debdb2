"""The ranktable of LLMDataDist: which devices of which nodes prefill and which decode.

The format is that of vllm-ascend v0.11's `gen_ranktable.py`: version 1.2, indent 4, every value a string, and
`super_pod_id` and `super_device_id` on A3 only. LLMDataDistCMgrConnector reads it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymotor.ascend.devices import Generation

NODE_FORMAT = "pymotor-ranktable-node-1"
MAX_DEVICES = 256
"""More devices than any node has; what claims more is no node's record."""


class RanktableError(Exception):
    """Why there can be no ranktable; the message names node and device, one problem a line."""


@dataclass(frozen=True)
class NodeDevice:
    """A device as the ranktable names it. `super_pod_id` and `super_device_id` are decimal, empty on A2."""

    device_id: int
    device_ip: str
    super_pod_id: str = ""
    super_device_id: str = ""


@dataclass(frozen=True)
class NodeRecord:
    """What one node adds to the ranktable: its address and the devices it lends, in the order they are used."""

    server_id: str
    generation: Generation
    devices: tuple[NodeDevice, ...]

    def as_json(self) -> dict[str, Any]:
        """The record as it is sent and as `pymotor ranktable collect` writes it."""
        devices = []
        for device in self.devices:
            entry = {"device_id": device.device_id, "device_ip": device.device_ip}
            if self.generation == "A3":
                entry |= {"super_pod_id": device.super_pod_id, "super_device_id": device.super_device_id}
            devices.append(entry)
        return {
            "format": NODE_FORMAT,
            "server_id": self.server_id,
            "generation": self.generation,
            "devices": devices,
        }

    @classmethod
    def from_json(cls, content: object) -> NodeRecord:
        """Read a record that another node or a file brought.

        Raises:
            RanktableError: it is not such a record.
        """
        if not isinstance(content, dict) or content.get("format") != NODE_FORMAT:
            raise RanktableError(f"not what `pymotor ranktable collect` writes (no format {NODE_FORMAT!r})")
        server_id, generation, devices = (content.get(key) for key in ("server_id", "generation", "devices"))
        if (
            not isinstance(server_id, str)
            or not is_address(server_id)
            or generation not in ("A2", "A3")
            or not isinstance(devices, list)
        ):
            raise RanktableError("a node's record needs server_id (an IP address), generation (A2 or A3) and devices")
        if len(devices) > MAX_DEVICES:
            raise RanktableError(f"node {server_id}: {len(devices)} devices are more than a node can have")
        read = tuple(_device(server_id, generation, device) for device in devices)
        return cls(server_id, generation, read)


def is_address(value: object) -> bool:
    """Whether it is an IPv4 or IPv6 address as text."""
    with contextlib.suppress(ValueError):
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    return False


def same_address(one: str, other: str) -> bool:
    """Whether two texts are the same address (IPv6 has several spellings)."""
    return ipaddress.ip_address(one) == ipaddress.ip_address(other)


def build_ranktable(nodes: Sequence[NodeRecord], prefill_devices: int, decode_devices: int) -> dict[str, Any]:
    """The ranktable of nodes in this order: the first `prefill_devices` devices prefill, the next decode.

    Raises:
        RanktableError: there are too few devices, or the nodes are not all A2 or all A3.
    """
    entries = [(node, device) for node in nodes for device in node.devices]
    wanted = prefill_devices + decode_devices
    if wanted > len(entries):
        each = ", ".join(f"node {node.server_id} has {len(node.devices)}" for node in nodes)
        raise RanktableError(
            f"{wanted} devices are wanted ({prefill_devices} for prefill, {decode_devices} for decode) but the nodes "
            f"lend {len(entries)}: {each}"
        )
    if len({node.generation for node in nodes}) > 1:
        each = ", ".join(f"node {node.server_id} is {node.generation}" for node in nodes)
        raise RanktableError(f"A2 and A3 cannot be in one ranktable: {each}")
    listed = [_entry(node, device, number) for number, (node, device) in enumerate(entries[:wanted], start=1)]
    return {
        "version": "1.2",
        "server_count": str(len(nodes)),
        "prefill_device_list": listed[:prefill_devices],
        "decode_device_list": listed[prefill_devices:],
        "status": "completed",
    }


def hccl_table(node: NodeRecord) -> dict[str, Any]:
    """HCCL's own table of one node (version 1.0): what HCCL_PATH names, of which the Controller makes an instance's."""
    devices = []
    for rank, device in enumerate(node.devices):
        entry = {"device_id": str(device.device_id), "device_ip": device.device_ip, "rank_id": str(rank)}
        if device.super_device_id:
            entry["super_device_id"] = device.super_device_id
        devices.append(entry)
    servers = [{"server_id": node.server_id, "container_ip": node.server_id, "device": devices}]
    return {"version": "1.0", "server_count": "1", "server_list": servers, "status": "completed"}


def left_out(nodes: Sequence[NodeRecord], ranktable: dict[str, Any]) -> list[str]:
    """Warnings: nodes that lend devices of which the ranktable uses none or only some."""
    used = [entry["server_id"] for role in ("prefill", "decode") for entry in ranktable[f"{role}_device_list"]]
    warnings = []
    for node in nodes:
        count = used.count(node.server_id)
        if count < len(node.devices):
            what = f"only {count} of" if count else "none of"
            warnings.append(
                f"node {node.server_id}: {what} its {len(node.devices)} devices are used; "
                "see --prefill-device-cnt, --decode-device-cnt and --local-device-ids"
            )
    return warnings


def ranktable_text(ranktable: dict[str, Any]) -> str:
    """The file's content."""
    return json.dumps(ranktable, indent=4)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old content or the new, never a part; a link's target is written. Raises
    `OSError`."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        # A terminal or a pipe is written to, not put aside.
        path.write_text(text, encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _entry(node: NodeRecord, device: NodeDevice, cluster_id: int) -> dict[str, str]:
    entry = {"server_id": node.server_id, "device_id": str(device.device_id), "device_ip": device.device_ip}
    if node.generation == "A3":
        entry |= {"super_pod_id": device.super_pod_id, "super_device_id": device.super_device_id}
    return entry | {"cluster_id": str(cluster_id)}


def _device(server_id: str, generation: str, content: object) -> NodeDevice:
    if not isinstance(content, dict):
        raise RanktableError(f"node {server_id}: a device is an object, not {content!r:.100}")
    device_id, device_ip = content.get("device_id"), content.get("device_ip")
    if type(device_id) is not int or device_id < 0 or not isinstance(device_ip, str) or not is_address(device_ip):
        raise RanktableError(f"node {server_id}: a device needs a device_id and a device_ip, not {content!r:.200}")
    if generation == "A2":
        return NodeDevice(device_id, device_ip)
    pod, super_device = content.get("super_pod_id"), content.get("super_device_id")
    for value in (pod, super_device):
        if not isinstance(value, str) or not value.isdecimal():
            raise RanktableError(f"node {server_id}, device {device_id}: an A3 needs super_pod_id and super_device_id")
    return NodeDevice(device_id, device_ip, str(pod), str(super_device))
