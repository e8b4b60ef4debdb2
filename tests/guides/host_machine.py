"""In place of a private machine where no namespaces can be made: this machine, with these substitutions.

`/data/…`, `/your/…` and `/vllm-workspace/…` become directories of the test, in commands as in the examples' scripts.
Ports stay what they are: a lock lets one test at a time have them, and one that somebody else has fails the test.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
from pathlib import Path
from typing import IO

import psutil
from private_machine import CHECKOUT, PrivateMachine, Running

_SUBSTITUTED = re.compile(r"(?<![\w.])/(?=(?:data|your|vllm-workspace)/)")
END_SECONDS = 20.0


class HostMachine(PrivateMachine):
    """Loopback of this machine, and directories of the test's own."""

    private = False

    def __enter__(self) -> HostMachine:
        self._running: list[Running] = []
        self._lock: IO[str] = (Path(tempfile.gettempdir()) / "pymotor-guides.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._install_programs()
        examples = self.path("/vllm-workspace/vllm-ascend/examples")
        shutil.copytree(CHECKOUT / "examples", examples, symlinks=True)
        for script in examples.rglob("*.sh"):
            script.write_text(self._substituted(script.read_text()))
        return self

    def __exit__(self, *_: object) -> None:
        processes = []
        for running in self._running:
            if running.status is None:
                process = psutil.Process(running.pid)
                processes += [process, *process.children(recursive=True)]
        for process in processes:
            process.terminate()
        for process in psutil.wait_procs(processes, END_SECONDS)[1]:
            process.kill()
        for running in self._running:
            running.wait()
        self._lock.close()

    def start(self, text: str, directory: str = "/", node: str = "", **environment: str) -> Running:
        assert not node, "this machine is one node"
        running = super().start(self._substituted(text), self._substituted(f"{directory}/"), **environment)
        self._running.append(running)
        return running

    def path(self, inside: str) -> Path:
        return self._scratch / inside.lstrip("/")

    def _enter(self, node: str = "") -> list[str]:
        return []

    def _substituted(self, text: str) -> str:
        return _SUBSTITUTED.sub(f"{self._scratch}/", text)
