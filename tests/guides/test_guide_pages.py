"""Every command of docs/guides, run as it stands there with simulated engines; the Chinese pages have the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from guide_pages import GUIDES, Block, fences, sections
from host_machine import HostMachine
from private_machine import CHECKOUT, PrivateMachine, Running, obstacle, private_machine, skip_without_namespaces

NODES = ("192.0.0.1", "192.0.0.2", "192.0.0.3")
PAGES = sorted(GUIDES.glob("*.md"))
MODELS = ("/your/local/model/path/Qwen3-VL-8B-Instruct", "/model/Qwen3-30B-A3B")
TOOLS = CHECKOUT / "tests" / "ascend_tools"
TOOL = """#!/bin/sh
. "$ASCEND_TOOLS_RECORDED/${0##*/} $*"
"""


def record_ascend_nodes(machine: PrivateMachine, directory: Path) -> None:
    """`npu-smi` and `hccn_tool` on PATH and /etc/hccn.conf on each node, as eight good devices of an A2 have them."""
    file = directory / "nodes.json"
    file.write_text(json.dumps({"nodes": {node: {"generation": "A2", "cards": 8} for node in NODES}}))
    subprocess.run(
        [sys.executable, "-S", TOOLS / "record.py", directory / "ascend"],
        env={**os.environ, "ASCEND_TOOLS_DESCRIPTION": str(file), "ASCEND_TOOLS_NODE": ""},
        check=True,
    )
    for name in ("npu-smi", "hccn_tool"):
        machine.add_program(name, TOOL)
    for node in NODES:
        machine.run(f"mount --bind '{directory}/ascend/{node}/hccn.conf' /etc/hccn.conf", node=node)


def run_section(machine: PrivateMachine, blocks: Sequence[Block], directory: Path) -> None:
    """One block after the other, as a reader types them."""
    serving: list[Running] = []
    ending: list[Running] = []
    for block in blocks:
        started = [
            machine.start(
                block.text,
                "/vllm-workspace/vllm-ascend",
                node,
                **({"ASCEND_TOOLS_RECORDED": f"{directory}/ascend/{node}/answers"} if node else {}),
            )
            for node in block.nodes or [""]
        ]
        if "until" in block.marks:
            serving += started
            machine.wait_until_ok(block.marks["until"], *serving, node=(block.nodes or [""])[0])
        elif "meanwhile" in block.marks:
            ending += started
        else:
            for one in started:
                assert one.wait() == 0, f"{block.text}\n{one.output}"
                assert block.marks.get("prints", "") in one.printed, f"{block.text}\n{one.output}"
    for one in ending:
        assert one.wait() == 0, one.output
    for one in serving:
        assert one.status is None, one.output


CASES = [(page, section, blocks) for page in PAGES for section, blocks in sections(page)]


@pytest.mark.parametrize(
    ("section", "blocks"), [case[1:] for case in CASES], ids=[f"{page.stem}: {section}" for page, section, _ in CASES]
)
def test_section(section: str, blocks: list[Block], tmp_path: Path) -> None:
    nodes = NODES if any(block.nodes for block in blocks) else ()
    if nodes:
        skip_without_namespaces()
    with HostMachine(tmp_path) if obstacle() else private_machine(tmp_path, nodes) as machine:
        for model in MODELS:
            machine.path(model).mkdir(parents=True)
        if any("pymotor netcheck" in block.text for block in blocks):
            record_ascend_nodes(machine, tmp_path)
        run_section(machine, blocks, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_chinese_page_has_the_same_blocks(page: Path) -> None:
    translated = GUIDES.parent / "zh" / "guides" / page.name
    if page.stem == "disaggregated-encoder":
        assert len(fences(page)) == len(fences(translated))
    else:
        assert fences(page) == fences(translated)


@pytest.mark.parametrize(
    "page", [*PAGES, *(GUIDES.parent / "zh" / "guides").glob("*.md")], ids=lambda page: str(page)[-40:]
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target
