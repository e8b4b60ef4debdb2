"""Configurations to start from, and the way a test loads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pymotor.config import LoadedConfig, Problem, load_config

SEEDS = Path(__file__).parent / "seeds"


def separate() -> dict[str, Any]:
    """A configuration with prefill and decode, on a CPU, in which nothing is wrong."""

    def engine(role: str) -> dict[str, Any]:
        return {
            "engine_type": "sim",
            "engine_config": {"model": "m", "kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": role}},
        }

    return {
        "version": "v2.0",
        "motor_deploy_config": {"p_instances_num": 1, "d_instances_num": 2, "hardware_type": "cpu"},
        "motor_coordinator_config": {},
        "motor_engine_prefill_config": engine("kv_producer"),
        "motor_engine_decode_config": engine("kv_consumer"),
    }


def load(directory: Path, user: object, env: object = None, *, strict: bool = True) -> LoadedConfig:
    """Load a configuration given as JSON values, or as text."""
    user_path = directory / "user_config.json"
    user_path.write_text(user if isinstance(user, str) else json.dumps(user), encoding="utf-8")
    env_path = None
    if env is not None:
        env_path = directory / "env.json"
        env_path.write_text(env if isinstance(env, str) else json.dumps(env), encoding="utf-8")
    return load_config(user_path, env_path, strict=strict)


def errors(config: LoadedConfig) -> list[Problem]:
    """The problems that are errors."""
    return [problem for problem in config.problems if problem.severity == "error"]


def at(config: LoadedConfig, path: str) -> Problem:
    """The only problem at a path."""
    found = [problem for problem in config.problems if problem.path == path]
    assert len(found) == 1, f"{path}: {[str(problem) for problem in config.problems]}"
    return found[0]
