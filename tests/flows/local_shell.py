"""`pymotor` as a user runs it in a shell, with a state directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from pymotor.engines.port_claims import PortClaims
from pymotor.local.greeting import first_request

EXAMPLES = Path(__file__).parents[2] / "examples" / "infer_engines"
SECONDS = 180.0
_CLAIMS = Path(tempfile.gettempdir()) / f"pymotor-test-ports-{os.getuid()}"
"""What tests claim before their fleets do."""


class Shell:
    """Runs `pymotor` with a state directory of its own, and sees what runs because of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._claims = PortClaims(_CLAIMS)
        self.port = free_ports(self._claims)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, "PYMOTOR_HOME": str(home)}

    def close(self) -> None:
        """Give its ports back."""
        self._claims.close()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pymotor", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )

    def up(self, config: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--config_dir", str(config), "--port", str(self.port), "--detach", *words)

    def start_up(self, config: Path, *words: str) -> subprocess.Popen[str]:
        """In the foreground; the test ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "pymotor", "up", "--config_dir", str(config), "--port", str(self.port), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.home / str(self.port) / "state.json").read_text())
        return state

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return status

    def ask(self) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=first_request("qwenvl", with_image=True), timeout=60)

    def states(self) -> dict[str, str]:
        """Instances and their states, as the Coordinator knows them."""
        report = httpx.get(f"http://127.0.0.1:{self.port + 1}/instances", timeout=60).json()
        return {instance["name"]: instance["state"] for instance in report["instances"]}

    def processes(self) -> list[str]:
        """Command lines of all processes that were started with this state directory."""
        mark = f"PYMOTOR_HOME={self.home}".encode()
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


def free_ports(own: PortClaims) -> int:
    """The first of five ports that nobody listens on and no fleet has claimed; no other test gets them before `own` is
    closed."""
    while True:
        port = random.randrange(24000, 31000)
        # Those of fleets are given back: this test's fleet claims them itself.
        with contextlib.closing(PortClaims()) as fleets:
            if all(claims.claim("127.0.0.1", port + step) for step in range(5) for claims in (own, fleets)):
                return port


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def write_config(directory: Path, change: Callable[[dict[str, Any]], None] | None = None, **counts: int) -> Path:
    """The simulated example at full speed with the given numbers of instances (e, p, d)."""
    config = json.loads((EXAMPLES / "sim/epd/user_config.json").read_text())
    for letter in "epd":
        config["motor_deploy_config"][f"{letter}_instances_num"] = counts.get(letter, 1)
    for role in ("encode", "prefill", "decode"):
        config[f"motor_engine_{role}_config"]["engine_config"]["sim-speed"] = 0.0
    config["motor_coordinator_config"]["inference_workers_config"] = {"num_workers": 1}
    if change is not None:
        change(config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "user_config.json").write_text(json.dumps(config))
    return directory
