"""Where the conductor is and which files tell a prompt's tokens, from what users write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prompt_models import template_model
from pymotor.config import UserConfig, load_config
from pymotor.coordinator.affinity.settings import AffinitySettings, affinity_settings


def user_of(directory: Path, *, coordinator: dict[str, Any] | None = None, **sections: Any) -> UserConfig:
    """A fleet of one union instance that chooses by cached prefixes."""
    scheduler = {"scheduler_type": "kv_cache_affinity", "kv_affinity_mode": "load_gated", "kv_affinity_load_weight": 2}
    file = directory / "user_config.json"
    file.write_text(
        json.dumps(
            {
                "motor_deploy_config": {"hybrid_instances_num": 1},
                "motor_coordinator_config": {"scheduler_config": scheduler, **(coordinator or {})},
                "motor_engine_union_config": {"engine_type": "sim", "engine_config": {"model": "tiny"}},
                **sections,
            }
        )
    )
    loaded = load_config(file, None, strict=False)
    assert loaded.user is not None
    return loaded.user


CONDUCTOR = {"kv_conductor_config": {"http_server_port": 13333}}


@pytest.mark.parametrize(
    ("sections", "environment", "expected"),
    [
        ({}, {}, ("", 0)),
        (CONDUCTOR, {}, ("127.0.0.1", 13333)),
        (CONDUCTOR, {"KV_CONDUCTOR_SERVICE": "conductor"}, ("conductor", 13333)),
        (CONDUCTOR, {"KV_CONDUCTOR_SERVICE": "conductor:14000"}, ("conductor", 14000)),
        (CONDUCTOR, {"KV_CONDUCTOR_SERVICE": "[fd00::1]:14000"}, ("fd00::1", 14000)),
        (CONDUCTOR, {"KV_CONDUCTOR_SERVICE": "fd00::1"}, ("fd00::1", 13333)),
        (CONDUCTOR, {"PYMOTOR_KV_CONDUCTOR": "127.0.0.1:5000"}, ("127.0.0.1", 5000)),
        ({}, {"PYMOTOR_KV_CONDUCTOR": "127.0.0.1:5000"}, ("127.0.0.1", 5000)),
        ({}, {"KV_CONDUCTOR_SERVICE": "conductor"}, ("", 0)),
    ],
)
def test_where_the_conductor_is(
    tmp_path: Path, sections: dict[str, Any], environment: dict[str, str], expected: tuple[str, int]
) -> None:
    found = affinity_settings(user_of(tmp_path, **sections), environment)
    assert (found.conductor_host, found.conductor_port) == expected


@pytest.mark.parametrize(("service", "expected"), [("other", ("other", 14444)), ("", ("", 0))])
def test_what_the_coordinators_own_section_says_goes_first(
    tmp_path: Path, service: str, expected: tuple[str, int]
) -> None:
    told = {"prefill_kv_event_config": {"conductor_service": service, "http_server_port": 14444}}
    found = affinity_settings(user_of(tmp_path, coordinator=told, **CONDUCTOR), {"PYMOTOR_KV_CONDUCTOR": "a:1"})
    assert (found.conductor_host, found.conductor_port) == expected


def test_the_rules_are_the_users(tmp_path: Path) -> None:
    rules = affinity_settings(user_of(tmp_path), {}).rules
    assert (rules.mode, rules.load_weight, rules.gate, rules.load_bound) == ("load_gated", 2.0, 2, 1.25)


def test_the_tokenizer_is_the_engines_models(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    template_model(model)
    engine = {
        "engine_type": "vllm",
        "engine_config": {
            "model": str(model),
            "chat-template": "{{ messages }}",
            "default_chat_template_kwargs": '{"enable_thinking": false}',
        },
    }
    found = affinity_settings(user_of(tmp_path, motor_engine_union_config=engine), {})
    assert found.model_directory == str(model)
    assert found.template == "{{ messages }}"
    assert found.template_options == {"enable_thinking": False}


def test_a_template_in_a_file(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0] }}")
    engine = {"engine_type": "vllm", "engine_config": {"model": "a/hub-name", "chat_template": str(template)}}
    found = affinity_settings(user_of(tmp_path, motor_engine_union_config=engine), {})
    assert (found.template, found.model_directory) == ("{{ messages[0] }}", "")


def test_a_template_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_bytes(b"\xff")
    engine = {"engine_type": "vllm", "engine_config": {"model": "tiny", "chat_template": str(tmp_path / "chat.jinja")}}
    assert affinity_settings(user_of(tmp_path, motor_engine_union_config=engine), {}).template == ""


def test_others_pay_for_nothing(tmp_path: Path) -> None:
    load = {"scheduler_config": {"scheduler_type": "load_balance"}}
    found = affinity_settings(user_of(tmp_path, coordinator=load, **CONDUCTOR), {})
    assert found == AffinitySettings()
