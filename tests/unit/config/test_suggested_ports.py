"""Ports that are suggested where servers want the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines_under_test import engine_config
from pymotor.config import UserConfig
from pymotor.config.checks.ports import collisions

ROUNDS = 4
"""NodeManagers of one container count up from the same port; once one of them is moved, the next one is told."""


def test_who_takes_every_suggestion_has_no_collision_any_more() -> None:
    content: dict[str, Any] = engine_config("sim", Path("/model"))
    content["motor_deploy_config"]["deploy_mode"] = "single_container"
    content["motor_controller_config"] = {"api_config": {"observability_api_port": 1027}}
    chosen: list[int] = []
    for _ in range(ROUNDS):
        told = list(collisions(UserConfig.model_validate(content), "user_config.json"))
        for problem in told:
            chosen.append(int(problem.suggestion.rpartition(" ")[2]))
            _set(content, problem.path, chosen[-1])
    assert not told
    assert len(chosen) > ROUNDS
    assert len(set(chosen)) == len(chosen)


def _set(content: dict[str, Any], path: str, port: int) -> None:
    *sections, key = path.removeprefix("$.").split(".")
    for name in sections:
        content = content.setdefault(name, {})
    content[key] = port
