"""The nodes that the stand-ins for `npu-smi` and `hccn_tool` describe, and how a test puts both on PATH.

A description is a JSON file of all nodes of a test:

    {"nodes": {"127.0.0.1": {"generation": "A2", "cards": 8, "answers": {…}, "devices": {"3": {"ip": null}}},
               "127.0.0.2": {"generation": "A3"}}}

`cards` defaults to 8 (A2: one device a card; A3: two). `devices` overrides what a device is by default:
`ip` (A2), `vnic`, `vnic_link`, `super_device_id`, `super_pod_id` (A3); null means that it is not set.
`missing_cards` are left out of `npu-smi info -m`, `absent_cards` of `npu-smi info -l` too.
`phy_id_column` adds the column of newer drivers to `npu-smi info -m` (default: on A3).
`answers` replaces the answer to an exact command line: {"npu-smi info -l": {"text": "…", "status": 1, "seconds": 30}}.

The stand-ins read the file's name from ASCEND_TOOLS_DESCRIPTION and the node they run on from ASCEND_TOOLS_NODE.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

DESCRIPTION, NODE = "ASCEND_TOOLS_DESCRIPTION", "ASCEND_TOOLS_NODE"
CHIPS_OF_A_CARD = {"A2": 1, "A3": 2}
CHIP_NAMES = {"A2": "Ascend 910B3", "A3": "Ascend910"}


class FakeNode:
    """One node of the description, with its defaults filled in."""

    def __init__(self, number: int, content: dict[str, Any]) -> None:
        self.number = number
        self.content = content
        self.generation: str = content.get("generation", "A2")
        self.chips_of_a_card = CHIPS_OF_A_CARD[self.generation]
        self.chip_name: str = content.get("chip_name", CHIP_NAMES[self.generation])
        self.cards: list[int] = list(range(content.get("cards", 8)))

    def device_ids(self) -> list[int]:
        return list(range(len(self.cards) * self.chips_of_a_card))

    def device(self, device_id: int) -> dict[str, Any]:
        """What a device is: the defaults, then what the description says of it."""
        card, chip = divmod(device_id, self.chips_of_a_card)
        server = self.content.get("server_index", self.number)
        device: dict[str, Any] = {
            "ip": f"29.1.{self.number}.{10 + device_id}",
            "netmask": "255.255.255.0",
            "vnic": f"192.168.{self.number}.{199 - device_id}",
            "vnic_link": "UP",
            "super_device_id": server << 22 | card << 18 | chip << 16 | device_id,
            "super_pod_id": 0,
            "super_pod_size": 384,
            "server_index": server,
        }
        return {**device, **self.content.get("devices", {}).get(str(device_id), {})}


def this_node() -> FakeNode:
    """The node that the environment names."""
    nodes = json.loads(Path(os.environ[DESCRIPTION]).read_text())["nodes"]
    name = os.environ[NODE]
    return FakeNode(list(nodes).index(name) + 1, nodes[name])


def answer_told(node: FakeNode, command_line: str) -> int | None:
    """Give the answer that the description has for this very command line; None where it has none."""
    told = node.content.get("answers", {}).get(command_line)
    if told is None:
        return None
    time.sleep(told.get("seconds", 0))
    sys.stdout.write(told.get("text", ""))
    return int(told.get("status", 0))


def install_ascend_tools(directory: Path) -> Path:
    """Write `npu-smi` and `hccn_tool` into a directory for PATH; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    for command, script in (("npu-smi", "npu_smi.py"), ("hccn_tool", "hccn_tool.py")):
        tool = directory / command
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{here / script}" "$@"\n')
        tool.chmod(0o755)
    return directory


def tool_environment(directory: Path, description: dict[str, Any], node: str) -> dict[str, str]:
    """Environment of a process on one of the nodes: both tools on PATH, the description written to a file."""
    file = install_ascend_tools(directory / "bin").parent / "nodes.json"
    file.write_text(json.dumps(description))
    path = f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, DESCRIPTION: str(file), NODE: node}
