"""Devices of other nodes that are known beforehand: from a ranktable, or from files of `pymotor netcheck collect`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pymotor.ascend.netcheck.judge_device import device_address
from pymotor.ascend.netcheck.outputs import is_usable_address
from pymotor.ascend.netcheck.pairs import Peer
from pymotor.ascend.netcheck.readings import NodeReadings, ReadingsError

_LISTS = ("prefill_device_list", "decode_device_list")


def peers_of_nodes(nodes: Iterable[NodeReadings]) -> dict[str, list[Peer]]:
    """The devices with an address, by node."""
    return {
        node.node: [
            Peer(node.node, device.device, address)
            for device in node.devices
            if (address := device_address(node.generation, device)) is not None
        ]
        for node in nodes
    }


def peers_of_ranktable(path: Path) -> dict[str, list[Peer]]:
    """The devices of a ranktable by server: gen_ranktable's lists, or HCCL's `server_list`. Raises ReadingsError."""
    try:
        table = json.loads(path.read_bytes())
        entries = list(_entries(table))
        peers: dict[str, list[Peer]] = {}
        for server, device, address in entries:
            if not is_usable_address(address):
                raise ReadingsError(f"{path}: device {device} of {server}: {address!r} is no address")
            peers.setdefault(server, []).append(Peer(server, int(device), address))
    except OSError as error:
        raise ReadingsError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReadingsError(f"{path}: not a ranktable ({error or type(error).__name__})") from error
    if not peers:
        raise ReadingsError(f"{path}: a ranktable without devices")
    return peers


def _entries(table: Any) -> Iterable[tuple[str, str, str]]:
    for name in _LISTS:
        for entry in table.get(name, ()):
            yield str(entry["server_id"]), entry["device_id"], str(entry["device_ip"])
    for server in table.get("server_list", ()):
        for entry in server["device"]:
            yield str(server["server_id"]), entry["device_id"], str(entry["device_ip"])
