"""A whole fleet for the chats, started by `pymotor up`, and what its parts count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chats.conversations import MODEL

START_SECONDS = 900.0
QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"


@dataclass(frozen=True)
class CacheCounts:
    """Tokens that were looked up in prefix caches, and found."""

    queries: float
    hits: float

    def since(self, before: CacheCounts) -> CacheCounts:
        """What was counted after `before`."""
        return CacheCounts(self.queries - before.queries, self.hits - before.hits)


def config(engine: str, model: Path, fleet: str, policy: str, ports: int, patience: float) -> dict[str, Any]:
    """user_config.json for `fleet` (`2u` or `2p2d`) and `policy`, its services on ports from `ports` on; `patience` in
    seconds."""
    options: dict[str, Any] = {
        "model": str(model),
        "served_model_name": MODEL,
        "dtype": "float32",
        "block_size": 128,
        "enforce_eager": True,
        "max_model_len": 8192,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 8192,
        "enable_request_id_headers": True,
        "enable_prefix_caching": True,
        "enable_prompt_tokens_details": True,
    }
    events = {
        "kv-events-config": {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv-events"},
    }
    parts: dict[str, dict[str, Any]]
    if fleet == "2u":
        counts = {"hybrid_instances_num": 2}
        parts = {"union": _with_events(options, events, ports + 10)}
    else:
        counts = {"p_instances_num": 2, "d_instances_num": 2}
        parts = {
            "prefill": {**_with_events(options, events, ports + 10), **_handover("kv_producer")},
            "decode": {**options, **_handover("kv_consumer")},
        }
    scheduler: dict[str, Any] = {
        "scheduler_type": policy,
        "tokenizer_path": str(model),
        "kv_affinity_patience": patience,
    }
    return {
        "version": "v2.0",
        "motor_deploy_config": {"hardware_type": "cpu", **counts},
        "motor_controller_config": {},
        "motor_coordinator_config": {
            "scheduler_config": scheduler,
            "http_config": {"server_timing": "on"},
            "inference_workers_config": {"num_workers": 1},
        },
        "kv_conductor_config": {"http_server_port": ports + 4},
        **{
            f"motor_engine_{role}_config": {"engine_type": engine, "engine_config": section}
            for role, section in parts.items()
        },
    }


def _with_events(options: dict[str, Any], events: dict[str, Any], first_port: int) -> dict[str, Any]:
    publishing = {
        **events["kv-events-config"],
        "endpoint": f"tcp://*:{first_port}",
        "replay_endpoint": f"tcp://*:{first_port + 20}",
    }
    return {**options, "kv-events-config": publishing}


def _handover(role: str) -> dict[str, Any]:
    return {"kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": role, "kv_buffer_device": "cpu"}}


class Fleet:
    """One `pymotor up`; to be ended by `down`."""

    def __init__(self, home: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.management = f"http://127.0.0.1:{port + 1}"
        self.observability = f"http://127.0.0.1:{port + 2}"
        self.conductor = f"http://127.0.0.1:{port + 4}"
        self._port = port
        self._environment = {**os.environ, "PYMOTOR_HOME": str(home)}

    def up(self, directory: Path) -> None:
        """Start what the directory's user_config.json says. Raises `RuntimeError` with what was printed."""
        self._run("up", "--config_dir", str(directory), "--port", str(self._port), "--detach")

    def down(self) -> None:
        """End all of it. Raises `RuntimeError` with what was printed."""
        self._run("down", "--all")

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pymotor", *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pymotor {words[0]} failed:\n{done.stdout}{done.stderr}")

    def endpoints(self, role: str) -> dict[str, str]:
        """URL of each endpoint of the instances with this role, by the instance's name."""
        report = httpx.get(f"{self.management}/instances", timeout=10).json()
        return {
            instance["name"]: instance["endpoints"][0]["url"]
            for instance in report["instances"]
            if instance["role"] == role
        }

    def cache_counts(self, role: str) -> dict[str, CacheCounts]:
        """What the engines of this role have counted so far, by instance."""
        return {name: engine_counts(url) for name, url in self.endpoints(role).items()}


def engine_counts(url: str) -> CacheCounts:
    """What the engine at `url` has counted."""
    found = {QUERIES: 0.0, HITS: 0.0}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text):
        for sample in family.samples:
            if sample.name in found:
                found[sample.name] += sample.value
    return CacheCounts(found[QUERIES], found[HITS])


def write_config(directory: Path, content: dict[str, Any]) -> None:
    """Put user_config.json there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "user_config.json").write_text(json.dumps(content, indent=1))
