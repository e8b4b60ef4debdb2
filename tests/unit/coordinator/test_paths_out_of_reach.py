"""`pymotor validate` with paths that this user may not look at, or that are none: it warns, and ends as always."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from another_user import reachable_directory, run_unprivileged
from certificates import OPENSSL, make_ca, make_certificate
from prompt_models import template_model

SECTION = "motor_coordinator_config"


@pytest.fixture
def directory() -> Iterator[Path]:
    with reachable_directory() as made:
        yield made


def config(section: dict[str, Any], **deploy: Any) -> dict[str, Any]:
    return {
        "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu", **deploy},
        "motor_engine_union_config": {"engine_type": "sim", "engine_config": {"model": "tiny"}},
        SECTION: section,
    }


def severities(directory: Path, written: dict[str, Any]) -> dict[str, str]:
    """What `validate` says for nobody, by path."""
    (directory / "user_config.json").write_text(json.dumps(written))
    ended = run_unprivileged("validate", "--config_dir", directory, "--json")
    assert ended.stderr == ""
    problems = json.loads(ended.stdout)["problems"]
    assert ended.returncode == int(any(problem["severity"] == "error" for problem in problems))
    return {problem["path"]: problem["severity"] for problem in problems}


@pytest.mark.parametrize("name", ["locked/below/it", "n" * 300, "a\0b"], ids=["locked", "too long", "NUL"])
def test_nothing_that_cannot_be_looked_at_ends_in_a_traceback(directory: Path, name: str) -> None:
    (directory / "locked").mkdir(mode=0)
    path = f"{directory}/{name}"
    tls = {"enable_tls": True, "ca_file": path, "cert_file": path, "key_file": path}
    section = {
        "api_key_config": {"enable_api_key": True, "keys_file": path},
        "logging_config": {"request_log": "json", "request_log_directory": path},
        "scheduler_config": {"tokenizer_path": path},
    }
    told = severities(directory, config(section, tls_config={"mgmt_tls_config": tls}))
    assert set(told.values()) == {"warning"}
    assert {
        f"$.{SECTION}.api_key_config.keys_file",
        f"$.{SECTION}.logging_config.request_log_directory",
        f"$.{SECTION}.scheduler_config.tokenizer_path",
        "$.motor_deploy_config.tls_config.mgmt_tls_config.key_file",
    } <= set(told)


@pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not installed")
def test_what_this_user_may_not_read_is_a_warning(directory: Path) -> None:
    own = make_certificate(make_ca(directory / "ca"), directory, "own")
    (directory / "ca").chmod(0o755)
    (directory / "ca" / "ca.crt").chmod(0o644)
    own.cert_file.chmod(0o644)
    (directory / "keys.json").write_text('{"keys": []}')
    for secret in (own.key_file, directory / "keys.json"):
        secret.chmod(0)
    tls = {"enable_tls": True, "ca_file": "ca/ca.crt", "cert_file": own.cert_file.name, "key_file": own.key_file.name}
    written = config(
        {"api_key_config": {"enable_api_key": True, "keys_file": "keys.json"}}, tls_config={"mgmt_tls_config": tls}
    )
    plane = "$.motor_deploy_config.tls_config.mgmt_tls_config"
    told = severities(directory, written)
    assert (told[f"$.{SECTION}.api_key_config.keys_file"], told[plane]) == ("warning", "warning")
    own.key_file.chmod(0o644)
    assert severities(directory, written)[plane] == "error"
    own.key_file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(own.key_file, 65534, -1)
    (directory / "locked").mkdir(mode=0)
    tls["passwd_file"] = "locked/password"
    assert severities(directory, written)[plane] == "warning"


@pytest.mark.parametrize("name", ["", "tokenizer.json", "config.json"], ids=["all", "the tokenizer", "another file"])
def test_a_model_that_this_user_may_not_read_is_a_warning(directory: Path, name: str) -> None:
    (directory / "model").mkdir()
    written = config({"scheduler_config": {"tokenizer_path": template_model(directory / "model")}})
    for file in (directory / "model").iterdir():
        file.chmod(0o644)
    (directory / "model").chmod(0o755)
    assert severities(directory, written) == {}
    (directory / "model" / name).chmod(0)
    assert severities(directory, written) == {f"$.{SECTION}.scheduler_config.tokenizer_path": "warning"}
