"""The KV Conductor that `pymotor up` starts: it claims what simulated engines hold, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
from local_shell import Shell, wait_for, write_config

EVENTS = {"enable_kv_cache_events": True, "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:6667", "topic": "kv"}
QUESTION = {"role": "user", "content": "Which of the things that you know begins with a long prefix? " * 12}


def with_conductor(config: dict[str, Any]) -> None:
    """Two union engines that publish, and a conductor."""
    config["motor_deploy_config"] = {"hybrid_instances_num": 2, "hardware_type": "cpu"}
    for role in ("encode", "prefill", "decode"):
        del config[f"motor_engine_{role}_config"]
    config["motor_engine_union_config"] = {
        "engine_type": "sim",
        "engine_config": {
            "model": "a-model",
            "served_model_name": ["a-model", "its-alias"],
            "max_model_len": 8192,
            "enable_prefix_caching": True,
            "kv-events-config": EVENTS,
        },
    }
    config["kv_conductor_config"] = {"http_server_port": 13333}


class Fleet:
    """What runs, as its user sees it."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.conductor = f"http://127.0.0.1:{shell.port + 4}"
        token = (shell.home / str(shell.port) / "token").read_text().strip()
        self.headers = {"Authorization": f"Bearer {token}"}

    def live(self) -> bool:
        """Whether both publishers are followed."""
        try:
            endpoints = httpx.get(f"{self.conductor}/sources", headers=self.headers, timeout=60).json()["endpoints"]
        except httpx.HTTPError:
            return False
        return {one["endpoint"] for one in endpoints if one["live"]} == {"union-0/0", "union-1/0"}

    def engine(self, name: str) -> str:
        """Its URL."""
        report = httpx.get(f"http://127.0.0.1:{self.shell.port + 1}/instances", timeout=60).json()
        url = next(one["endpoints"][0]["url"] for one in report["instances"] if one["name"] == name)
        return str(url)

    def ask(self, name: str) -> int:
        """Ask this engine the question, for one token; returns how many tokens of the prompt it had cached."""
        body = {"model": "a-model", "messages": [QUESTION], "max_tokens": 1, "temperature": 0}
        answer = httpx.post(f"{self.engine(name)}/v1/chat/completions", json=body, timeout=60).json()
        details = answer["usage"].get("prompt_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)

    def hits(self, name: str) -> int:
        """Prompt tokens that its prefix cache had, so far."""
        lines = httpx.get(f"{self.engine(name)}/metrics", timeout=60).text.splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total")))

    def predicted(self, model: str = "a-model") -> dict[str, int]:
        """What the conductor claims for the question."""
        body = {"model": "a-model", "messages": [QUESTION]}
        tokens = httpx.post(f"{self.engine('union-0')}/tokenize", json=body, timeout=60).json()["tokens"]
        question = {"model": model, "token_ids": tokens}
        answer = httpx.post(f"{self.conductor}/query", json=question, headers=self.headers, timeout=60).json()
        return {name: one["longest_matched"] for name, one in answer["default"].items()}

    def replace(self, name: str) -> None:
        """SIGKILL to one of the fleet's processes; returns when another one does its work."""
        former = self.shell.state()["processes"][name]["pid"]
        os.kill(former, signal.SIGKILL)

        def replaced() -> bool:
            now = self.shell.state()["processes"].get(name)
            return now is not None and now["pid"] != former and self.live()

        wait_for(replaced, f"another {name}")


def test_it_claims_what_engines_hold_and_nothing_that_is_gone(shell: Shell, tmp_path: Path) -> None:
    up = shell.up(write_config(tmp_path / "config", with_conductor))
    assert up.returncode == 0, up.stdout + up.stderr
    fleet = Fleet(shell)
    wait_for(fleet.live, "both publishers are live")
    # Its Coordinator goes by load alone.
    assert "2 of 2 publishers of events are live, no Coordinator asks it, http" in shell.run("status").stdout
    assert fleet.predicted() == {}

    fleet.ask("union-0")
    wait_for(lambda: bool(fleet.predicted()), "the conductor has heard")
    predicted = fleet.predicted()
    assert list(predicted) == ["union-0"]
    assert fleet.predicted("its-alias") == predicted
    before = fleet.hits("union-0")
    fleet.ask("union-0")
    assert fleet.hits("union-0") - before == predicted["union-0"] > 100

    fleet.replace("kv-conductor")
    assert fleet.predicted() == predicted
    assert shell.run("status").returncode == 0

    fleet.replace("union-0")
    assert fleet.predicted() == {}
    assert fleet.ask("union-0") == 0

    assert shell.run("down").returncode == 0
