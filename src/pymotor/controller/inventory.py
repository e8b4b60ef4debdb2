"""What runs where, in the fixed format that management platforms read: `GET /observability/inventory`."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pymotor.controller.alarms import can_serve
from pymotor.controller.faults.view import FleetView, InstanceView, NodeView
from pymotor.fleet import InstanceState, Role

HEALTHY, DEGRADED, UNHEALTHY = 1, 2, 3
"""`modelState`."""

_STATUS = {
    InstanceState.INITIAL: "init",
    InstanceState.ACTIVE: "running",
    InstanceState.DRAINING: "running",
    InstanceState.INACTIVE: "error",
    InstanceState.GONE: "error",
}
_LISTS = {
    Role.ENCODE: "EInstanceList",
    Role.PREFILL: "PInstanceList",
    Role.DECODE: "DInstanceList",
    Role.UNION: "PDHybridList",
}


def inventory(view: FleetView, variables: Mapping[str, str], milliseconds: int) -> dict[str, Any]:
    """The inventory; `variables`: the environment (`sys_id`, `MODEL_NAME`, `ENGINE_TYPE`); `milliseconds` since 1970.

    `EInstanceList` is beside what older versions had, and `PDHybridList` is no longer empty.
    """
    instances = sorted(view.instances, key=lambda one: (not one.active, one.role.value, one.number))
    models = [model for one in instances for model in one.models]
    model = models[0] if models else variables.get("MODEL_NAME", "")
    engine = variables.get("ENGINE_TYPE") or next((one.engine for one in instances if one.engine), "")
    return {
        "modelID": variables.get("sys_id", ""),
        "modelName": model,
        "modelType": model,
        "modelState": model_state(view),
        "inferenceFrameworkType": f"motor-{engine.lower()}",
        "timestamp": milliseconds,
        "inventories": {
            **{name: [_instance(one) for one in view.of_role(role)] for role, name in _LISTS.items()},
            "DPGroupList": [group for one in view.instances for group in _groups(one)],
            "backupServerList": [{"backupInfoList": [{"backupRole": "", "serverIp": ""}]}],
            "expertList": [_NO_EXPERT],
            "serverIPList": _addresses(node for one in view.instances for node in one.nodes),
            "serverOfCoordinator": [],
            "serverOfManagerMaster": [],
            "serverOfManagerSlave": [],
        },
    }


def model_state(view: FleetView) -> int:
    """`UNHEALTHY`: requests cannot be answered; `DEGRADED`: they can, but an instance is missing; else `HEALTHY`."""
    if not can_serve(view):
        return UNHEALTHY
    missing = any(view.active(role) < wanted for role, wanted in view.targets.items())
    out = any(one.state in (InstanceState.INITIAL, InstanceState.INACTIVE) for one in view.instances)
    return DEGRADED if missing or out else HEALTHY


_NO_EXPERT = {
    "DPIP": "",
    "ID": "",
    "Name": "",
    "podInfoList": [{"podAssociatedInfoList": [{"NPUID": "", "NPUIP": ""}], "podID": "", "podName": ""}],
    "serverIP": "",
}
"""Experts have no servers of their own here; readers expect the entry."""


def _instance(one: InstanceView) -> dict[str, Any]:
    return {
        "ID": one.name,
        "Name": one.name,
        "InstanceStatus": _STATUS[one.state],
        "podInfoList": [_pod(node) for node in one.nodes],
        "serverIPList": _addresses(one.nodes),
        "serverList": [],
    }


def _pod(node: NodeView) -> dict[str, Any]:
    return {"podAssociatedInfoList": _devices(node), "podID": node.address, "podName": node.name}


def _groups(one: InstanceView) -> list[dict[str, Any]]:
    """An entry for each engine server, with its part of its node's devices where they can be divided evenly."""
    groups = []
    for node in one.nodes:
        devices = _devices(node)
        share, rest = divmod(len(devices), len(node.endpoints)) if node.endpoints else (0, 0)
        for place, endpoint in enumerate(node.endpoints):
            own = devices if rest else devices[place * share : (place + 1) * share]
            server = {
                "NPUInfoList": own,
                "serverID": node.machine,
                "serverIP": node.address,
                "serverName": node.machine,
            }
            group = {
                "DPID": endpoint.id,
                "DPName": endpoint.id,
                "DPRole": "Central",
                "PDInstID": one.name,
                "podInfoList": [_pod(node)],
                "serverList": [server],
            }
            groups.append({"DPGroupID": endpoint.id, "DPGroupName": endpoint.id, "DPList": [group]})
    return groups


def _devices(node: NodeView) -> list[dict[str, str]]:
    """The node's accelerators with the addresses that its device table has for them."""
    addresses = device_addresses(node.ranktable)
    return [{"NPUID": device, "NPUIP": addresses.get(device, "")} for device in node.device_ids or tuple(addresses)]


def device_addresses(ranktable: str) -> dict[str, str]:
    """The network address of each device in a device table (JSON text); nothing where it is none."""
    try:
        document = json.loads(ranktable) if ranktable else None
    except (ValueError, RecursionError):
        return {}
    servers = document.get("server_list") if isinstance(document, dict) else None
    addresses: dict[str, str] = {}
    for server in servers if isinstance(servers, list) else ():
        devices = server.get("device") if isinstance(server, dict) else None
        for device in devices if isinstance(devices, list) else ():
            if isinstance(device, dict) and device.get("device_id") is not None:
                addresses[str(device["device_id"])] = str(device.get("device_ip") or "")
    return addresses


def _addresses(nodes: Iterable[NodeView]) -> list[str]:
    """The machines that are named by their address."""
    found = dict.fromkeys(node.machine for node in nodes if _is_address(node.machine))
    return list(found)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
