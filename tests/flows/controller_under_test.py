"""Controllers as processes, and NodeManagers that a test plays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import plain_http
from processes import PymotorProcess, wait_until

from model_node import ModelNode
from pymotor.fleet import NodeReport, ReportReply, decode_message, encode_message

TOKEN = "a-token-for-these-tests-only"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def user_config(directory: Path, *, standby: bool = False, lease: float = 2.0, listen: float = 1.0) -> Path:
    """A configuration with short times."""
    engine = {"engine_type": "sim", "engine_config": {"model": "m"}}
    path = directory / "user_config.json"
    path.write_text(
        json.dumps(
            {
                "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu"},
                "motor_engine_union_config": engine,
                "motor_controller_config": {
                    "instance_config": {"listen_seconds": listen},
                    "standby_config": {
                        "enable_master_standby": standby,
                        "master_lock_ttl": lease,
                        "master_lock_retry_interval": 0.1,
                    },
                },
            }
        )
    )
    return path


class ControllerUnderTest:
    """One `pymotor controller` on a free port."""

    def __init__(self, state: Path, log: Path, *words: str, token: str | None = None) -> None:
        environment = {"PYMOTOR_CLUSTER_TOKEN": token or "", "PYMOTOR_CLUSTER_TOKEN_FILE": ""}
        argv = ["controller", "--port", "0", "--state-dir", str(state), *words]
        self.process = PymotorProcess(argv, log, environment)
        self._token = token
        self._log = log
        ready = re.compile(r"pymotor controller ready on (http\S+)")
        wait_until(
            lambda: ready.search(log.read_text()) or not self.process.alive, "the Controller is ready", seconds=60
        )
        found = ready.search(log.read_text())
        assert found is not None, self.process.tail()
        self.url = found[1]

    def post(self, path: str, body: bytes | dict[str, Any] = b"{}", timeout: float = 30.0) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(BEARER if self._token else {})}
        return plain_http.post(self.url + path, content=content, headers=headers, timeout=timeout)

    def get(self, path: str) -> Any:
        response = plain_http.get(self.url + path, headers=BEARER if self._token else {}, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()

    def say(self, report: NodeReport) -> ReportReply:
        response = self.post("/nodes/report", encode_message(report))
        assert response.status_code == 200, response.text
        return decode_message(response.content, ReportReply)

    def serve_with(self, node: ModelNode) -> None:
        """Report until the node's server is ready and known to be."""
        for _ in range(3):
            node.take(self.say(node.report()))
            node.work()
        self.say(node.report())

    @property
    def leads(self) -> bool:
        """Whether it leads, be it that it still listens."""
        return plain_http.get(f"{self.url}/readiness", timeout=60).status_code == 200

    @property
    def ready(self) -> bool:
        """Whether it leads and knows who is there."""
        reply = plain_http.get(f"{self.url}/readiness", timeout=60)
        return reply.status_code == 200 and bool(reply.json()["complete"])

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        if self.process.alive:
            self.go_on()
        self.process.end()


class PlayedNodes:
    """Nodes that go on by themselves, in a thread, as long as the block runs."""

    def __init__(self, controller: ControllerUnderTest, *nodes: ModelNode) -> None:
        self.controller = controller
        self.nodes = nodes
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._play, args=(node,), daemon=True) for node in nodes]

    def __enter__(self) -> PlayedNodes:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _play(self, node: ModelNode) -> None:
        try:
            while not self._stop.is_set() and not node.ended:
                node.take(self.controller.say(node.report(wait_seconds=0.2)))
                node.work()
            self.controller.say(node.report())  # the last word of one that ends: nothing runs any more
        except httpx.TransportError:
            return


def pymotor(*words: str, url: str) -> subprocess.CompletedProcess[str]:
    """One command against the Controller at that URL."""
    return subprocess.run(
        [sys.executable, "-m", "pymotor", *words],
        env={**os.environ, "PYMOTOR_CONTROLLER": url},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
