"""A stand-in for `hccn_tool`: prints what the driver's tool prints for the nodes of a description (see nodes.py)."""

from __future__ import annotations

import sys

import network
from nodes import FakeNode, answer_told, this_node

WRONG_USAGE = 1
NOT_PRESET = 13


def main(words: list[str]) -> int:
    node = this_node()
    told = answer_told(node, " ".join(["hccn_tool", *words]))
    if told is not None:
        return told
    if len(words) < 3 or words[0] != "-i" or not words[1].isdigit() or int(words[1]) not in node.device_ids():
        print("hccn_tool: invalid device id")
        return WRONG_USAGE
    question, device_id = words[2:], int(words[1])
    if question == ["-ip", "-g"]:
        return ip(node, device_id)
    if question == ["-vnic", "-g"]:
        return vnic(node, device_id)
    said = network.answer(node, device_id, question)
    if said is not None:
        print(said[1], end="")
        return said[0]
    print("hccn_tool: invalid option")
    return WRONG_USAGE


def ip(node: FakeNode, device_id: int) -> int:
    device = node.device(device_id)
    if device["ip"] is None:
        print("no ip was preset")
        return NOT_PRESET
    print(f"ipaddr:{device['ip']}\nnetmask:{device['netmask']}")
    return 0


def vnic(node: FakeNode, device_id: int) -> int:
    device = node.device(device_id)
    print(f"vnic link status: {device['vnic_link']}")
    if device["vnic"] is not None:
        print(f"vnic ipaddr: {device['vnic']}\nvnic netmask: 255.255.255.0")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
