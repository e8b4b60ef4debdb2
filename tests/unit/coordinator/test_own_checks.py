"""What a Coordinator has to say against a configuration: `pymotor validate` says the same, in the same words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from certificates import OPENSSL, make_ca, make_certificate
from prompt_models import template_model
from pymotor.config import EnvConfig, LoadedConfig, UserConfig
from pymotor.coordinator.settings import settings_from
from pymotor.local.prepare import runnable_config
from pymotor.local.request import UpRequest
from pymotor.local.state import FleetDirectory

Config = dict[str, Any]
SECTION = "motor_coordinator_config"


@pytest.fixture
def config() -> Config:
    """One union engine; nothing is wrong with it."""
    return {
        "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu"},
        "motor_engine_union_config": {"engine_type": "sim", "engine_config": {"model": "tiny"}},
    }


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pymotor", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def validated(directory: Path, config: Config) -> dict[str, dict[str, str]]:
    """What `validate` says, by path."""
    (directory / "user_config.json").write_text(json.dumps(config))
    said = json.loads(run("validate", "--config_dir", directory, "--json").stdout)
    return {problem["path"]: problem for problem in said["problems"]}


def said_at_start(directory: Path) -> str:
    """What a Coordinator says that does not start."""
    file = directory / "user_config.json"
    started = run("coordinator", "--user_config_path", file, "--fleet", directory / "fleet.json", "--port", 0)
    assert started.returncode == 1, started.stderr
    return started.stderr


def told_by_both(directory: Path, config: Config, path: str) -> str:
    """The error that both tell of `path`."""
    problem = validated(directory, config)[path]
    assert problem["severity"] == "error"
    assert f"error: {problem['file']}: {path}: {problem['message']}\n" in said_at_start(directory)
    return problem["message"]


def keys_file(content: str, mode: int = 0o600) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        file.write_text(content)
        file.chmod(mode)

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (keys_file("{"), "keys.json cannot be understood"),
        (keys_file('{"version": 1, "keys": []}', 0o644), "run: chmod 600"),
        (Path.mkdir, "keys.json is a directory; name a file in it"),
    ],
    ids=["broken", "open to everybody", "a directory"],
)
def test_a_keys_file_that_cannot_be_used(tmp_path: Path, config: Config, make: Any, words: str) -> None:
    make(tmp_path / "keys.json")
    config[SECTION] = {"api_key_config": {"enable_api_key": True, "keys_file": "keys.json"}}
    assert words in told_by_both(tmp_path, config, f"$.{SECTION}.api_key_config.keys_file")
    config[SECTION]["api_key_config"]["enable_api_key"] = False
    assert f"$.{SECTION}.api_key_config.keys_file" not in validated(tmp_path, config)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [("collector:4318", "it is no http or https URL"), ("http://collector:none", "it is no URL")],
)
def test_an_endpoint_of_traces_that_is_none(tmp_path: Path, config: Config, endpoint: str, words: str) -> None:
    config[SECTION] = {"tracer_config": {"endpoint": endpoint}}
    assert words in told_by_both(tmp_path, config, f"$.{SECTION}.tracer_config.endpoint")


@pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not installed")
@pytest.mark.parametrize("plane", ["infer_tls_config", "mgmt_tls_config", "observability_tls_config"])
@pytest.mark.parametrize(
    ("key", "words"),
    [("cert_file", "holds no certificate in PEM form"), ("key_file", "is not the key of cert_file")],
    ids=["garbage", "another key"],
)
def test_certificates_that_cannot_be_used(tmp_path: Path, config: Config, plane: str, key: str, words: str) -> None:
    authority = make_ca(tmp_path / "ca")
    own, other = (make_certificate(authority, tmp_path, stem) for stem in ("own", "other"))
    named = {"ca_file": "ca/ca.crt", "cert_file": own.cert_file.name, "key_file": own.key_file.name}
    if key == "cert_file":
        own.cert_file.write_text("garbage")
    else:
        named[key] = other.key_file.name
    config["motor_deploy_config"]["tls_config"] = {plane: {"enable_tls": True, **named}}
    told = told_by_both(tmp_path, config, f"$.motor_deploy_config.tls_config.{plane}")
    assert told.startswith(f"{key} {tmp_path}")
    assert words in told


def test_what_this_machine_lacks_is_a_warning_of_validate(tmp_path: Path, config: Config) -> None:
    config[SECTION] = {
        "api_key_config": {"enable_api_key": True, "keys_file": "/etc/nowhere/keys.json"},
        "http_config": {"engine_api_key_env": "NO_SUCH_VARIABLE"},
        "scheduler_config": {"tokenizer_path": "/nowhere"},
    }
    tls = {name: f"/etc/nowhere/{name}" for name in ("ca_file", "cert_file", "key_file")}
    config["motor_deploy_config"]["tls_config"] = {"mgmt_tls_config": {"enable_tls": True, **tls}}
    told = validated(tmp_path, config)
    assert {problem["severity"] for problem in told.values()} == {"warning"}
    for path in ("api_key_config.keys_file", "http_config.engine_api_key_env", "scheduler_config.tokenizer_path"):
        assert told[f"$.{SECTION}.{path}"]["message"].endswith("see that it is right where the Coordinator runs)")
    assert said_at_start(tmp_path).count("error: ") == 4
    (tmp_path / "env.json").write_text('{"motor_coordinator_env": {"NO_SUCH_VARIABLE": "sk-secret"}}')
    assert f"$.{SECTION}.http_config.engine_api_key_env" not in validated(tmp_path, config)


def test_an_engines_key_that_is_no_header_is_wrong_anywhere(tmp_path: Path, config: Config) -> None:
    config[SECTION] = {"http_config": {"engine_api_key_env": "ENGINES_KEY"}}
    (tmp_path / "env.json").write_text('{"motor_coordinator_env": {"ENGINES_KEY": "sk-\\n"}}')
    told = validated(tmp_path, config)[f"$.{SECTION}.http_config.engine_api_key_env"]
    assert (told["severity"], told["message"]) == (
        "error",
        "the engines' key has characters that cannot stand in a header",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize(
    ("content", "mode", "severity"),
    [('{"keys": []}', 0o600, "warning"), ('{"keys": []}', 0o644, "error"), ("{", 0o600, "error")],
    ids=["theirs", "open to everybody", "broken"],
)
def test_a_keys_file_of_another_user_may_be_right_where_the_coordinator_runs(
    tmp_path: Path, config: Config, content: str, mode: int, severity: str
) -> None:
    keys_file(content, mode)(tmp_path / "keys.json")
    os.chown(tmp_path / "keys.json", 12345, -1)
    config[SECTION] = {"api_key_config": {"enable_api_key": True, "keys_file": "keys.json"}}
    told = validated(tmp_path, config)[f"$.{SECTION}.api_key_config.keys_file"]
    assert told["severity"] == severity
    assert ("belongs to another user" in told["message"]) is (severity == "warning")
    assert told["message"].partition(" (that depends")[0] in said_at_start(tmp_path)


def tokenizer(directory: Path, content: str, name: str = "tokenizer.json") -> None:
    template_model(directory)
    (directory / name).write_text(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda directory: tokenizer(directory, "{broken"), "tokenizer.json cannot be used: key must be a string"),
        (lambda directory: tokenizer(directory, "{}"), "tokenizer.json cannot be used: "),
        (lambda directory: tokenizer(directory, "{", "tokenizer_config.json"), "cannot be read: "),
        (lambda directory: None, "there is no tokenizer.json in "),
        (lambda directory: (directory / "tokenizer.json").mkdir(), "there is no tokenizer.json in "),
    ],
    ids=["broken", "empty", "its configuration is broken", "none", "a directory"],
)
def test_a_tokenizer_that_cannot_be_used(
    tmp_path: Path, config: Config, make: Callable[[Path], None], words: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config[SECTION] = {"scheduler_config": {"tokenizer_path": str(model)}}
    make(model)
    assert words in told_by_both(tmp_path, config, f"$.{SECTION}.scheduler_config.tokenizer_path")
    assert "Traceback" not in said_at_start(tmp_path)


def test_a_tokenizer_that_can_be_used(tmp_path: Path, config: Config) -> None:
    config[SECTION] = {"scheduler_config": {"tokenizer_path": template_model(tmp_path)}}
    assert validated(tmp_path, config) == {}


def test_a_relative_tokenizer_begins_where_the_configuration_is(tmp_path: Path, config: Config) -> None:
    (tmp_path / "model").mkdir()
    template_model(tmp_path / "model")
    config[SECTION] = {"scheduler_config": {"tokenizer_path": "model"}}
    assert validated(tmp_path, config) == {}
    user = UserConfig.model_validate(config)
    assert settings_from(user, directory=tmp_path).tokenizer_path == str(tmp_path / "model")
    scheduler = {"scheduler_type": "kv_cache_affinity"}
    config[SECTION] = {"scheduler_config": scheduler, "prefill_kv_event_config": {"model_path": "model"}}
    assert f"$.{SECTION}.prefill_kv_event_config.model_path" not in validated(tmp_path, config)
    user = UserConfig.model_validate(config)
    assert settings_from(user, directory=tmp_path).affinity.model_directory == str(tmp_path / "model")


def test_what_runs_on_this_machine_has_whole_paths(tmp_path: Path, config: Config) -> None:
    config[SECTION] = {
        "scheduler_config": {"tokenizer_path": "model"},
        "prefill_kv_event_config": {"model_path": "other"},
    }
    (tmp_path / "model").mkdir()
    template_model(tmp_path / "model")
    file = tmp_path / "user_config.json"
    request = UpRequest(
        user_config_path=file, env_config_path=None, engine=None, port=1, host="", name="", start_deadline=1,
        first_request=False,
    )  # fmt: skip
    loaded = LoadedConfig(UserConfig.model_validate(config), EnvConfig(), ())
    user, _ = runnable_config(request, loaded, tmp_path, FleetDirectory(tmp_path, "one"), lambda event: None)
    coordinator = user.motor_coordinator_config
    assert coordinator.scheduler_config.tokenizer_path == str(tmp_path / "model")
    assert coordinator.prefill_kv_event_config.model_path == str(tmp_path / "other")


def test_a_model_that_is_not_there_is_told(tmp_path: Path, config: Config) -> None:
    scheduler = {"scheduler_type": "kv_cache_affinity"}
    config[SECTION] = {"scheduler_config": scheduler, "prefill_kv_event_config": {"model_path": "/nowhere"}}
    problem = validated(tmp_path, config)[f"$.{SECTION}.prefill_kv_event_config.model_path"]
    assert problem["severity"] == "warning"
    assert "there is no tokenizer.json in /nowhere" in problem["message"]
    assert "name the directory" in problem["suggestion"]


@pytest.mark.parametrize("option", ["model", "tokenizer", "model_path"])
def test_an_engines_tokenizer_that_cannot_be_used(tmp_path: Path, config: Config, option: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tokenizer(model, "{broken")
    config[SECTION] = {"scheduler_config": {"scheduler_type": "kv_cache_affinity"}}
    if option == "model_path":
        config[SECTION]["prefill_kv_event_config"] = {option: str(model)}
        key = f"$.{SECTION}.prefill_kv_event_config.model_path"
    else:
        config["motor_engine_union_config"]["engine_config"][option] = str(model)
        key = f"$.motor_engine_union_config.engine_config.{option}"
    assert "tokenizer.json cannot be used: key must be a string" in told_by_both(tmp_path, config, key)
    assert "scheduler_config.tokenizer_path" in validated(tmp_path, config)[key]["suggestion"]
    assert "Traceback" not in said_at_start(tmp_path)
    config[SECTION]["scheduler_config"]["scheduler_type"] = "load_balance"
    assert key not in validated(tmp_path, config)


def test_an_engines_chat_template_that_cannot_be_read(tmp_path: Path, config: Config) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config["motor_engine_union_config"]["engine_config"]["chat-template"] = str(tmp_path / "chat.jinja")
    config[SECTION] = {"scheduler_config": {"tokenizer_path": template_model(model)}}
    (tmp_path / "chat.jinja").write_bytes(b"\xff{{ messages }}")
    key = "$.motor_engine_union_config.engine_config.chat-template"
    assert "chat.jinja cannot be read: 'utf-8' codec" in told_by_both(tmp_path, config, key)
    assert "Traceback" not in said_at_start(tmp_path)
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    assert key not in validated(tmp_path, config)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there is no chat template in "),
        ({"chat_template": "{% for"}, "the chat template cannot be read: "),
        (
            {"chat_template": [{"template": "x"}, {"name": "tool_use", "template": "{% for"}]},
            "the chat template cannot be read: ",
        ),
    ],
    ids=["none", "broken", "broken for tools"],
)
def test_a_tokenizer_without_a_usable_template(tmp_path: Path, config: Config, files: Config, words: str) -> None:
    scheduler = {"scheduler_type": "kv_cache_affinity", "tokenizer_path": template_model(tmp_path, files)}
    config[SECTION] = {"scheduler_config": scheduler}
    key = f"$.{SECTION}.scheduler_config.tokenizer_path"
    problem = validated(tmp_path, config)[key]
    assert problem["severity"] == "warning"
    assert words in problem["message"]
    assert problem["message"].endswith(": each chat waits for an engine's /tokenize")
    config["motor_engine_union_config"]["engine_config"]["chat_template"] = "{{ messages }}"
    assert key not in validated(tmp_path, config)


def test_an_engines_own_directory_without_template_is_no_difference(tmp_path: Path, config: Config) -> None:
    config[SECTION] = {"scheduler_config": {"scheduler_type": "kv_cache_affinity"}}
    config["motor_engine_union_config"]["engine_config"]["model"] = template_model(tmp_path, {})
    assert not [one for one in validated(tmp_path, config).values() if "chat template" in one["message"]]


def test_a_tokenizer_without_placeholders_where_media_are_encoded(tmp_path: Path, config: Config) -> None:
    model = template_model(tmp_path)
    scheduler = {"scheduler_type": "kv_cache_affinity", "tokenizer_path": model}
    config[SECTION] = {"scheduler_config": scheduler}
    config["motor_deploy_config"]["e_instances_num"] = 1
    config["motor_engine_encode_config"] = config["motor_engine_union_config"]
    key = f"$.{SECTION}.scheduler_config.tokenizer_path"
    assert key not in validated(tmp_path, config)
    (tmp_path / "config.json").unlink()
    problem = validated(tmp_path, config)[key]
    assert problem["severity"] == "warning"
    assert f"no config.json in {model} names the placeholders of media" in problem["message"]
    config["motor_deploy_config"]["e_instances_num"] = 0
    assert key not in validated(tmp_path, config)


@pytest.mark.parametrize(
    ("scheduler_type", "words"),
    [
        ("kv_cache_affinity", "without the key the engines' model, or their /tokenize, tells the tokens"),
        ("load_balance", "without the key prompts are estimated"),
    ],
)
def test_what_stands_in_for_a_tokenizer(tmp_path: Path, config: Config, scheduler_type: str, words: str) -> None:
    config[SECTION] = {"scheduler_config": {"scheduler_type": scheduler_type, "tokenizer_path": "/nowhere"}}
    problem = validated(tmp_path, config)[f"$.{SECTION}.scheduler_config.tokenizer_path"]
    assert problem["severity"] == "warning"
    assert words in problem["suggestion"]


def test_nothing_is_started_here_without_the_tokenizer(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYMOTOR_HOME", str(tmp_path / "home"))
    config[SECTION] = {"scheduler_config": {"tokenizer_path": "model"}}
    (tmp_path / "user_config.json").write_text(json.dumps(config))
    started = run("up", "--config_dir", tmp_path, "--name", "without-tokenizer")
    assert started.returncode == 1, started.stderr
    said = started.stdout + started.stderr
    assert f"there is no tokenizer.json in {tmp_path / 'model'}" in said
    assert "the configuration has 1 error; nothing was started" in said
