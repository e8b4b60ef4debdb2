"""The table of keys that may change while a fleet runs: they exist, and each is where its part reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pymotor.config import Part, UserConfig, json_path
from pymotor.config.differences import differences
from pymotor.config.live_keys import LIVE_KEYS, SCALING_KEYS, LiveKey, live_key, read_at_start, taken_by
from pymotor.config.schema import places_of_keys

SECTION_OF = {
    Part.COORDINATOR: "motor_coordinator_config",
    Part.CONTROLLER: "motor_controller_config",
    Part.NODE_MANAGER: "motor_engine_",
}
DOCS = Path(__file__).parents[3] / "docs"
NOBODY: frozenset[Part] = frozenset()
TAKER_IN_WORDS = {
    "Coordinator": frozenset([Part.COORDINATOR]),
    "Controller": frozenset([Part.CONTROLLER]),
    "NodeManager": frozenset([Part.NODE_MANAGER]),
    "nobody": NOBODY,
    "无": NOBODY,
}
OLD_WHITELIST = [
    "motor_deploy_config.tls_config.north_tls_config.enable_tls",
    "motor_deploy_config.tls_config.north_tls_config.crl_file",
    "north_config.name",
    "north_config.port",
    "motor_controller_config.logging_config.log_level",
    "motor_controller_config.observability_config.observability_enable",
    "motor_controller_config.observability_config.metrics_ttl",
    "motor_coordinator_config.logging_config.log_level",
    "motor_coordinator_config.exception_config.max_retry",
    "motor_coordinator_config.exception_config.retry_delay",
    "motor_coordinator_config.exception_config.first_token_timeout",
    "motor_coordinator_config.exception_config.infer_timeout",
    "motor_coordinator_config.timeout_config.read_timeout",
    "motor_nodemanger_config.logging_config.log_level",
]


def written(key: LiveKey) -> str:
    return ".".join(key.path)


@pytest.mark.parametrize("key", [*LIVE_KEYS, *SCALING_KEYS], ids=written)
def test_each_key_is_one_that_files_may_have(key: LiveKey) -> None:
    if key.path[-1] == "timeout_config" or key.path[0] == "motor_nodemanger_config":
        return  # any value passes there, and has no effect
    assert json_path(key.path[:-1]) in places_of_keys(UserConfig)[key.path[-1]]


def test_no_key_is_named_twice() -> None:
    paths = [key.path for key in (*LIVE_KEYS, *SCALING_KEYS)]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("part", SECTION_OF)
def test_a_part_takes_keys_of_its_own_sections(part: Part) -> None:
    mine = [key for key in taken_by(part) if key not in SCALING_KEYS]
    assert mine
    assert all(key.path[0].startswith(SECTION_OF[part]) for key in mine)


def test_up_hands_on_what_anybody_takes() -> None:
    assert set(taken_by(Part.UP)) == {key for key in LIVE_KEYS if key.parts}


@pytest.mark.parametrize("path", OLD_WHITELIST)
def test_what_could_always_be_changed_still_can(path: str) -> None:
    assert live_key(tuple(path.split(".")), LIVE_KEYS) is not None


@pytest.mark.parametrize(
    ("part", "path", "reads"),
    [
        (Part.COORDINATOR, "motor_coordinator_config.scheduler_config.deploy_mode", True),
        (Part.COORDINATOR, "motor_coordinator_config.exception_config.max_retry", False),
        (Part.COORDINATOR, "motor_engine_prefill_config.engine_config.model", False),
        (Part.COORDINATOR, "motor_deploy_config.p_instances_num", False),
        (Part.CONTROLLER, "motor_controller_config.api_config.controller_api_port", True),
        (Part.CONTROLLER, "motor_controller_config.instance_config.node_timeout", False),
        (Part.NODE_MANAGER, "motor_engine_prefill_config.engine_config.model", True),
        (Part.NODE_MANAGER, "motor_engine_decode_config.engine_config.model", False),
        (Part.NODE_MANAGER, "motor_engine_prefill_config", True),
        (Part.NODE_MANAGER, "motor_deploy_config.p_instances_num", False),
    ],
)
def test_what_a_part_reads_at_its_start_only(part: Part, path: str, reads: bool) -> None:
    assert read_at_start(part, tuple(path.split(".")), roles=("prefill",)) is reads


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [("a",)]),
        ({"a": {"b": 1}}, {}, [("a", "b")]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", 1)]),
        ({"a": [1, 2]}, {"a": [1]}, [("a",)]),
        ({"a": None}, {"a": {"b": 1}}, [("a",)]),
    ],
)
def test_differences(old: Any, new: Any, paths: list[tuple[str | int, ...]]) -> None:
    assert differences(old, new) == paths


@pytest.mark.parametrize("page", ["configuration.md", "zh/configuration.md"])
def test_the_pages_name_the_same_keys_and_takers(page: str) -> None:
    found = set()
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        section = re.fullmatch(r"`((?:motor|north)_[\w.*]+)`", cells[0])
        if section is not None and len(cells) == 3 and cells[2] in TAKER_IN_WORDS:
            keys = re.findall(r"`(\w+)`", cells[1])
            found |= {(f"{section[1]}.{key}", TAKER_IN_WORDS[cells[2]]) for key in keys}
    existing = {
        (re.sub(r"^motor_engine_[a-z]+_config", "motor_engine_*_config", written(key)), key.parts) for key in LIVE_KEYS
    }
    assert found == existing
