"""Encode, prefill and decode of real vLLM under NodeManagers: decode is killed, answers go on, it comes back."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_legs import answer, chat, image, post, text
from engines_under_test import engine_config, vllm_python_or_skip
from pymotor.engines.host import can_listen
from pymotor.engines.tiny_model import make_tiny_model

pytestmark = pytest.mark.vllm

SECONDS = 600.0


class Fleet:
    """A `pymotor up` with real vLLM."""

    def __init__(self, home: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._management = f"http://127.0.0.1:{port + 1}"
        self._home = home
        self._port = port
        self._environment = {**os.environ, "PYMOTOR_HOME": str(home), "VLLM_PYTHON": vllm_python_or_skip()}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `pymotor` for this fleet."""
        return subprocess.run(
            [sys.executable, "-m", "pymotor", *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def pid(self, name: str) -> int | None:
        """Of one of its processes, None while it does not run."""
        state = json.loads((self._home / str(self._port) / "state.json").read_text())
        found = state["processes"].get(name)
        return None if found is None else int(found["pid"])

    def states(self) -> dict[str, str]:
        """Instances and their states, as the Coordinator knows them."""
        report = httpx.get(f"{self._management}/instances", timeout=10).json()
        return {one["name"]: one["state"] for one in report["instances"]}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """1E1P1D, serving."""
    model = tmp_path / "tiny-qwen3-vl"
    make_tiny_model(model)
    config = engine_config("vllm", model)
    del config["motor_deploy_config"]["hybrid_instances_num"], config["motor_engine_union_config"]
    (tmp_path / "user_config.json").write_text(json.dumps(config))
    chosen = random.Random(os.getpid())
    port = next(
        port
        for port in iter(lambda: chosen.randint(24000, 31000), 0)
        if all(can_listen("127.0.0.1", port + step) for step in range(4))
    )
    running = Fleet(tmp_path / "home", port)
    up = running.run("up", "--config_dir", str(tmp_path), "--port", str(port), "--detach")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield running
    finally:
        down = running.run("down", "--all")
        assert down.returncode == 0, down.stderr


def ask(fleet: Fleet, seed: int) -> tuple[str, str]:
    """The text of an answer about an image, and who made it."""
    body: dict[str, Any] = chat(image(seed), text("What is shown?"), max_tokens=12)
    reply = post(fleet.url, body)
    return answer(reply)["choices"][0]["message"]["content"], reply.headers["server-timing"]


def test_decode_killed_under_its_node_manager(fleet: Fleet) -> None:
    known = {seed: ask(fleet, seed) for seed in range(3)}
    assert all("decode-0" in legs for _, legs in known.values())
    killed = fleet.pid("decode-0")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    without = 0
    ends = time.monotonic() + SECONDS
    while fleet.pid("decode-0") in (killed, None) or fleet.states()["decode-0"] != "active":
        assert time.monotonic() < ends, "decode does not come back"
        seed = without % 3
        said, legs = ask(fleet, seed)
        assert said == known[seed][0]
        without += "decode-0" not in legs
    assert without, "no request was answered while decode was gone"
    for seed, (said, _) in known.items():
        again, legs = ask(fleet, seed)
        assert again == said
        assert "decode-0" in legs
