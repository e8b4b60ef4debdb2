"""Nodes for tests of the network check: stand-ins for the tools and for ssh on PATH, a directory for each node."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pymotor.cli import main

TOOLS = Path(__file__).parents[2] / "ascend_tools"
SSH = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
echo "$*" >> "$NETCHECK_NODES/ssh.log"
host="${2##*@}"; shift 2
[ -d "$NETCHECK_NODES/$host" ] || { echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; }
cd "$NETCHECK_NODES/$host" && ASCEND_TOOLS_RECORDED="$PWD/answers" exec sh -c "$*"
"""
TOOL = """#!/bin/sh
answer="$ASCEND_TOOLS_RECORDED/${0##*/} $*"
if [ -r "$answer" ]; then . "$answer"; else echo "no answer is recorded: $answer"; exit 99; fi
"""

Place = tuple[str, "int | None", str]


class Fleet:
    """node-a, on which the command is typed, and the others, reached by ssh; `description` is that of ascend_tools."""

    def __init__(self, directory: Path, generation: str, nodes: Iterable[str], devices: int) -> None:
        self.directory = directory
        cards = devices // (2 if generation == "A3" else 1)
        self.description: dict[str, Any] = {
            "nodes": {name: {"generation": generation, "cards": cards, "devices": {}} for name in nodes}
        }
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        for name, text in (("ssh", SSH), ("hccn_tool", TOOL), ("npu-smi", TOOL)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        (self.bin / "python3").symlink_to(os.path.realpath(sys.executable))

    def break_device(self, node: str, device: int, **broken: Any) -> None:
        """Describe a device otherwise than as a good one; `answers` are by the words after `-i N`."""
        answers = {f"hccn_tool -i {device} {words}": said for words, said in broken.pop("answers", {}).items()}
        content = self.description["nodes"][node]
        content["devices"].setdefault(str(device), {}).update(copy.deepcopy(broken))
        content.setdefault("answers", {}).update(answers)

    def record(self) -> None:
        """Write down what the tools say."""
        file = self.directory / "nodes.json"
        file.write_text(json.dumps(self.description))
        subprocess.run(
            [sys.executable, "-S", TOOLS / "record.py", self.directory],
            env={**os.environ, "ASCEND_TOOLS_DESCRIPTION": str(file), "ASCEND_TOOLS_NODE": ""},
            check=True,
        )

    def environment(self, node: str = "node-a") -> dict[str, str]:
        """What a process on a node needs."""
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "NETCHECK_NODES": str(self.directory),
            "ASCEND_TOOLS_RECORDED": str(self.directory / node / "answers"),
        }


class Console:
    """Types `pymotor netcheck …` on a node of a fleet."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.fleet, self._monkeypatch, self._capsys = fleet, monkeypatch, capsys

    def type(self, *words: object, node: str = "node-a") -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        with self._monkeypatch.context() as patch:
            for name, value in self.fleet.environment(node).items():
                patch.setenv(name, value)
            patch.chdir(self.fleet.directory / node)
            self._capsys.readouterr()
            try:
                status = main(["netcheck", *map(str, words)])
            except SystemExit as ended:
                status = int(ended.code or 0)
            return status, *self._capsys.readouterr()

    def check(self, *words: object) -> tuple[int, dict[str, Any]]:
        """The check of node-a and node-b with `--json`: exit status and the object."""
        status, said, complaint = self.type(
            "--node-name", "node-a", "--nodes", "node-b", "--hccn-conf", "hccn.conf", "--json", *words
        )
        assert said, complaint
        return status, json.loads(said)


def bad(report: dict[str, Any]) -> dict[Place, str]:
    """What was found that is not good, with its verdict."""
    return {
        (found["node"], found["device"], found["step"]): found["verdict"]
        for found in report["findings"]
        if found["verdict"] in ("failed", "warning")
    }
