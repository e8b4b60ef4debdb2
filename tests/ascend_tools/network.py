"""The device network of the described nodes, as `hccn_tool` prints it.

A device of the description may have, besides what nodes.py lists: `link`, `health`, `detect`, `gateway`,
`switch_port`, `tls` (0 or 1), `config` (its lines of /etc/hccn.conf) and `lost` ({address: how many of 3 packets}).
A ping passes when both ends are up (A2: `link`, A3: `vnic_link`), have addresses and equal TLS; `pings_although_down`
lets it pass all the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nodes import DESCRIPTION, FakeNode

UNSET = "error: this parameter is not configured"
UNSUPPORTED = "This device does not support this function"


def all_nodes() -> list[FakeNode]:
    nodes = json.loads(Path(os.environ[DESCRIPTION]).read_text())["nodes"]
    return [FakeNode(number + 1, content) for number, content in enumerate(nodes.values())]


def answer(node: FakeNode, device_id: int, question: list[str]) -> tuple[int, str] | None:
    """Exit status and text; None for a question that is none of the network's."""
    device = with_network(node, device_id)
    if question == ["-link", "-g"]:
        return 0, f"link status: {device['link']}\n"
    if question == ["-net_health", "-g"]:
        return 0, f"net health status: {device['health']}\n"
    if question == ["-netdetect", "-g"]:
        return 0, f"netdetect address: {device['detect'] or '0.0.0.0'}\n"
    if question == ["-gateway", "-g"]:
        gateway = device["gateway"]
        return (0, f"default gateway:{gateway}, Iface:eth{device_id}\n") if gateway else (0, UNSET + "\n")
    if question == ["-tls", "-g"]:
        return 0, (
            f"dev_id:{device_id}, tls switch[{device['tls']}](0:disable, 1:enable), tls preconfigured[1]"
            "(0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
        )
    if question == ["-lldp", "-g"]:
        return 0, neighbour(device["switch_port"])
    if question[:3] == ["-ping", "-g", "address"] and len(question) == 4:
        return ping(node, device_id, question[3])
    if question[:3] == ["-hccs_ping", "-g", "address"] and len(question) == 4:
        return hccs_ping(node, device_id, question[3]) if node.generation == "A3" else (1, UNSUPPORTED + "\n")
    return None


def with_network(node: FakeNode, device_id: int) -> dict[str, Any]:
    gateway = f"29.1.{node.number}.1"
    defaults = {
        "link": "UP",
        "health": "Success",
        "detect": gateway,
        "gateway": gateway,
        "switch_port": f"400GE1/{node.number}/{device_id + 1}:1",
        "tls": 0,
        "lost": {},
        "pings_although_down": False,
    }
    return {**defaults, **node.device(device_id)}


def neighbour(port: str | None) -> str:
    if port is None:
        return ""
    return (
        "Chassis ID TLV\n\tMAC: 48:57:02:aa:bb:cc\nPort ID TLV\n"
        f"\tIfname: {port}\n"
        "Time to Live TLV\n\t120\nSystem Name TLV\n\tleaf-7\n"
        "System Description TLV\n\tHuawei Versatile Routing Platform\n"
        "Management Address TLV\n\tIPv4: 10.0.0.254\nEnd of LLDPDU TLV\n"
    )


def config_text(node: FakeNode) -> str:
    """/etc/hccn.conf."""
    lines = []
    for device_id in node.device_ids():
        device = with_network(node, device_id)
        usual = [
            f"address_{device_id}={device['ip'] or f'29.1.{node.number}.{10 + device_id}'}",
            f"netmask_{device_id}=255.255.255.0",
            f"netdetect_{device_id}=29.1.{node.number}.1",
            f"gateway_{device_id}=29.1.{node.number}.1",
            f"send_arp_status_{device_id}=1",
            f"tls_enable_{device_id}={device['tls']}",
        ]
        lines += device.get("config", usual)
    return "\n".join(lines) + "\n"


def received(node: FakeNode, device_id: int, address: str) -> int:
    """How many of three packets come back."""
    kind = "vnic" if node.generation == "A3" else "ip"
    own = with_network(node, device_id)
    for other in all_nodes():
        for other_id in other.device_ids():
            device = with_network(other, other_id)
            if device[kind] != address:
                continue
            port = "vnic_link" if node.generation == "A3" else "link"
            up = all(
                end[kind] is not None and (end["pings_although_down"] or end[port] == "UP") for end in (own, device)
            )
            return 3 - own["lost"].get(address, 0) if up and own["tls"] == device["tls"] else 0
    return 0


def ping(node: FakeNode, device_id: int, address: str) -> tuple[int, str]:
    count = received(node, device_id, address)
    lines = [f"device {device_id} PING {address}"]
    lines += [f"recv seq={number},time=0.114000ms" for number in range(count)]
    lines += [f"recv time out seq={number}" for number in range(count, 3)]
    lines.append(f"3 packets transmitted, {count} received, {(3 - count) / 0.03:.2f}% packet loss")
    return 0, "\n".join(lines) + "\n"


def hccs_ping(node: FakeNode, device_id: int, address: str) -> tuple[int, str]:
    count = received(node, device_id, address)
    lines = [f"device {device_id} PING {address}"]
    for number in range(3):
        if number < count:
            lines += [f"recv seq {number}, time = 12.345us, L1 plane check result = 0x0", "This pkt ping success!"]
        else:
            lines.append("This pkt check recv msg fail!")
    lines.append(f"3 packets transmitted, {count} received, {(3 - count) / 0.03:.2f}% packets loss")
    if count:
        lines.append("max time = 12.345us, min time = 12.345us, average time = 12.345us, TP95 time = 12.345us")
    return 0, "\n".join(lines) + "\n"
