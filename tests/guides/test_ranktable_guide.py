"""The step of the LLMDataDist guide that makes the ranktable, as it is printed, on three nodes with an eth0 each."""

from __future__ import annotations

import json

import pytest
from private_machine import CHECKOUT, PrivateMachine, Running
from typed import typed

from ascend_tools.nodes import DESCRIPTION, NODE, install_ascend_tools

GUIDE = typed("ranktable_guide")
NODES = {"192.0.0.1": "on the prefiller node", "192.0.0.2": "on decoder 1", "192.0.0.3": "on decoder 2"}
# Each node has a directory of its own with the examples, where the guide has a disk of its own.
HAVE_EXAMPLES = "mkdir -p /{node}/vllm-ascend && cp -a {checkout}/examples /{node}/vllm-ascend/"
RANKTABLE = "{node}/vllm-ascend/examples/disaggregate_prefill_v1/ranktable.json"


def start(machine: PrivateMachine, node: str, **environment: str) -> Running:
    """Type the guide's block on a node."""
    machine.run(HAVE_EXAMPLES.format(node=node, checkout=CHECKOUT))
    return machine.start(GUIDE[NODES[node]], f"/{node}", node, **environment)


@pytest.mark.parametrize("generation", ["A2", "A3"])
def test_as_printed(three_nodes: PrivateMachine, generation: str) -> None:
    machine = three_nodes
    install_ascend_tools(machine.programs)
    description = machine.path("/nodes.json")
    description.write_text(json.dumps({"nodes": {node: {"generation": generation} for node in NODES}}))
    # Started in another order than that of --ips: the first of them comes last.
    running = {node: start(machine, node, **{DESCRIPTION: "/nodes.json", NODE: node}) for node in reversed(NODES)}
    tables = []
    for node, process in running.items():
        assert process.wait() == 0, process.output
        tables.append(machine.path(RANKTABLE.format(node=node)).read_text())
    assert tables[0] == tables[1] == tables[2]
    table = json.loads(tables[0])
    assert list(table) == ["version", "server_count", "prefill_device_list", "decode_device_list", "status"]
    assert (table["version"], table["server_count"], table["status"]) == ("1.2", "3", "completed")
    listed = [
        [(entry["server_id"], entry["device_id"], entry["cluster_id"]) for entry in table[f"{role}_device_list"]]
        for role in ("prefill", "decode")
    ]
    assert listed == [
        [("192.0.0.1", "0", "1"), ("192.0.0.1", "1", "2")],
        [("192.0.0.2", "6", "3"), ("192.0.0.2", "7", "4"), ("192.0.0.3", "6", "5"), ("192.0.0.3", "7", "6")],
    ]
    last = table["decode_device_list"][-1]
    assert last["device_ip"] == {"A2": "29.1.3.17", "A3": "192.168.3.192"}[generation]
    assert ("super_device_id" in last) == ("super_pod_id" in last) == (generation == "A3")
