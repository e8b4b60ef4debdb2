"""The vLLM-Ascend guide to prefill and decode apart with LLMDataDist, as it is printed: three nodes, one engine each.

`vllm` on PATH is the simulated engine. The guide's steps before that have tests of their own: those of the network
check and of the ranktable.
"""

from __future__ import annotations

import json

from private_machine import PrivateMachine
from typed import typed

GUIDE = typed("llmdatadist_guide")
EXAMPLES = "/vllm-workspace/vllm-ascend/examples"
NODES = ("192.0.0.1", "192.0.0.2", "192.0.0.3")
PREFILL, *DECODES = NODES
QUESTION = {"model": "qwen3-moe", "prompt": "Who are you?", "max_tokens": 100, "temperature": 0}
PLAIN = "vllm serve /model/Qwen3-30B-A3B --port 9000 --served-model-name qwen3-moe"


def asked(machine: PrivateMachine, block: str = GUIDE["ask"], node: str = PREFILL) -> str:
    """What the fleet answers to the guide's curl."""
    answer = json.loads(machine.run(block, node=node))
    assert answer["object"] == "text_completion", answer
    text: str = answer["choices"][0]["text"]
    return text


def plain_answer(machine: PrivateMachine) -> str:
    """What one engine without connectors answers to the same."""
    plain = machine.start(PLAIN, node=PREFILL)
    machine.wait_until_ok("http://127.0.0.1:9000/health", plain, node=PREFILL)
    return asked(machine, f"curl -s http://127.0.0.1:9000/v1/completions -H Content-Type:application/json "
                          f"-d '{json.dumps(QUESTION)}'")  # fmt: skip


def test_as_printed(three_nodes: PrivateMachine) -> None:
    machine = three_nodes
    engines = [machine.start(GUIDE[f"prefill on {PREFILL}"], node=PREFILL)]
    engines += [machine.start(GUIDE[f"decode on {node}"], node=node) for node in DECODES]
    # Whoever copies the second `decode` block gets the decoders of the guide; the spelling of the port flag is its own.
    directory = f"{EXAMPLES}/disaggregated_prefill_v1"
    proxy = machine.start(GUIDE["start the proxy"], directory, PREFILL)
    for node, engine in zip(NODES, engines, strict=True):
        machine.wait_until_ok(f"http://{node}:13700/health", engine, node=PREFILL)
    machine.wait_until_ok("http://192.0.0.1:8080/healthcheck", proxy, node=PREFILL)
    assert asked(machine) == plain_answer(machine)


def test_the_run_scripts(three_nodes: PrivateMachine) -> None:
    """With the guide's addresses as defaults, from the directory as the guide spells it."""
    machine = three_nodes
    machine.path("/model/Qwen3-30B-A3B").mkdir(parents=True)
    ranktable = machine.path("/ranktable.json")
    ranktable.write_text("{}")
    environment = {"DISAGGREGATED_PREFILL_RANK_TABLE_PATH": "/ranktable.json"}
    directory = f"{EXAMPLES}/disaggregate_prefill_v1"
    engines = [
        machine.start("bash run_prefill.sh", directory, PREFILL, **environment),
        machine.start("bash run_decode.sh", directory, DECODES[0], **environment),
        machine.start("NODE_IP=192.0.0.3 INSTANCE=2 bash run_decode.sh", directory, DECODES[1], **environment),
    ]
    proxy = machine.start("bash run_proxy.sh", directory, PREFILL)
    for node, engine in zip(NODES, engines, strict=True):
        machine.wait_until_ok(f"http://{node}:13700/health", engine, node=PREFILL)
    machine.wait_until_ok("http://192.0.0.1:8080/healthcheck", proxy, node=PREFILL)
    assert asked(machine) == plain_answer(machine)


def test_every_block_is_run() -> None:
    """By the tests above."""
    assert set(GUIDE) == {f"prefill on {PREFILL}", *(f"decode on {node}" for node in DECODES), "start the proxy", "ask"}
