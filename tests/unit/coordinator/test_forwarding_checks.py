"""Headers that cannot be forwarded and keys that are not there are told when the Coordinator starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pymotor.config import load_config
from pymotor.coordinator.forwarding_checks import check_forwarding

EXAMPLE = Path(__file__).parents[3] / "examples/infer_engines/sim/epd/user_config.json"


def told(directory: Path, environment: dict[str, str], **http: object) -> list[tuple[str, str]]:
    """Severity and path of each problem."""
    config = json.loads(EXAMPLE.read_text())
    config["motor_coordinator_config"] = {"http_config": http}
    path = directory / "user_config.json"
    path.write_text(json.dumps(config))
    loaded = load_config(path, None)
    assert loaded.user is not None
    assert loaded.ok
    problems = list(check_forwarding(loaded.user, "user_config.json", environment))
    assert not any("s3cret" in str(problem) for problem in problems)
    return [
        (problem.severity, problem.path.removeprefix("$.motor_coordinator_config.http_config.")) for problem in problems
    ]


def test_nothing_is_wrong_by_default(tmp_path: Path) -> None:
    assert told(tmp_path, {}) == []
    assert told(tmp_path, {}, forward_headers=["X-Mine"], forward_authorization=True) == []
    assert told(tmp_path, {"KEY": "s3cret"}, engine_api_key_env="KEY") == []


@pytest.mark.parametrize("name", ["Host", "authorization", "Cookie", "Content-Type", "x y", ""])
def test_headers_that_are_never_forwarded(tmp_path: Path, name: str) -> None:
    assert told(tmp_path, {}, forward_headers=["X-Mine", name]) == [("error", "forward_headers[1]")]


def test_a_key_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    assert told(tmp_path, {}, engine_api_key_env="KEY") == [("error", "engine_api_key_env")]
    assert told(tmp_path, {"KEY": ""}, engine_api_key_env="KEY") == [("error", "engine_api_key_env")]
    assert told(tmp_path, {"KEY": "s3cret\r\nX: y"}, engine_api_key_env="KEY") == [("error", "engine_api_key_env")]


def test_two_keys(tmp_path: Path) -> None:
    found = told(tmp_path, {"KEY": "s3cret"}, engine_api_key_env="KEY", forward_authorization=True)
    assert found == [("warning", "forward_authorization")]
