"""Writes down what both stand-ins answer on every node of a description, for tests that ask hundreds of questions.

    python record.py DIRECTORY

makes DIRECTORY/<node>/answers with a file for each command line, a few words of shell that print the answer, and
DIRECTORY/<node>/hccn.conf. A script that plays them costs a tenth of starting Python.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from pathlib import Path

import hccn_tool
import network
import npu_smi
from nodes import DESCRIPTION, NODE, FakeNode, this_node

QUESTIONS = ("-lldp", "-link", "-net_health", "-netdetect", "-gateway", "-ip", "-vnic", "-tls")


def main(directory: Path) -> None:
    for name in json.loads(Path(os.environ[DESCRIPTION]).read_text())["nodes"]:
        os.environ[NODE] = name
        node = this_node()
        answers = directory / name / "answers"
        answers.mkdir(parents=True, exist_ok=True)
        (directory / name / "hccn.conf").write_text(network.config_text(node))
        for words in command_lines(node):
            said = io.StringIO()
            tool = hccn_tool if words[0] == "hccn_tool" else npu_smi
            told = node.content.get("answers", {}).get(" ".join(words))
            with contextlib.redirect_stdout(said):
                status = tool.main(words[1:]) if told is None or "seconds" not in told else 0
            script = f"printf %s {shlex.quote(said.getvalue())}; exit {status}\n"
            if told is not None and "seconds" in told:
                script = f"exec sleep {told['seconds']}\n"
            (answers / " ".join(words)).write_text(script)


def command_lines(node: FakeNode) -> list[list[str]]:
    kind, ping = ("vnic", "-hccs_ping") if node.generation == "A3" else ("ip", "-ping")
    addresses = [
        address
        for other in network.all_nodes()
        if other.number != node.number
        for device in other.device_ids()
        if (address := other.device(device)[kind]) is not None
    ]
    lines = [["npu-smi", "info", "-l"], ["npu-smi", "info", "-m"]]
    for device in node.device_ids():
        tool = ["hccn_tool", "-i", str(device)]
        lines += [[*tool, question, "-g"] for question in QUESTIONS]
        lines += [[*tool, ping, "-g", "address", address] for address in addresses]
    return lines


if __name__ == "__main__":
    main(Path(sys.argv[1]))
