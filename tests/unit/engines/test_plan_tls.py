"""Engines that are to speak TLS: their command lines and addresses, and what they cannot be started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_configs import FixedHost, env_config, epd, union, user_config

from pymotor.config import UserConfig
from pymotor.engines import InstancePlan, PlanError, plan_instance
from pymotor.engines.tls import EngineTLS, engine_tls
from pymotor.fleet import Role

KEY = "-----BEGIN PRIVATE KEY-----\n"
LOCKED = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"


@pytest.fixture
def tls(tmp_path: Path) -> EngineTLS:
    (tmp_path / "own.key").write_text(KEY)
    return EngineTLS(str(tmp_path / "ca.crt"), str(tmp_path / "own.crt"), str(tmp_path / "own.key"), "engine.example")


def planned(role: str, tls: EngineTLS | None) -> InstancePlan:
    host = FixedHost(python="/opt/vllm/bin/python", engine_version="0.32.0", tls=tls)
    return plan_instance(user_config(epd()), env_config(), Role(role), 0, host)


@pytest.mark.parametrize("role", ["encode", "prefill", "decode"])
def test_each_role_is_started_with_the_files(tls: EngineTLS, role: str) -> None:
    plan = planned(role, tls)
    (server,) = plan.servers
    words = server.argv
    for name, value in (
        ("--ssl-keyfile", tls.key_file),
        ("--ssl-certfile", tls.cert_file),
        ("--ssl-ca-certs", tls.ca_file),
        ("--ssl-cert-reqs", "2"),
    ):
        assert words[words.index(name) + 1] == value
    assert "--enable-ssl-refresh" in words
    assert server.tls is tls
    assert [endpoint.url[:8] for endpoint in plan.instance.endpoints] == ["https://"]


def test_without_tls_nothing_of_it_is_there() -> None:
    plan = planned("prefill", None)
    assert not [word for word in plan.servers[0].argv if "ssl" in word]
    assert plan.instance.endpoints[0].url.startswith("http://")
    assert plan.servers[0].tls is None


def test_a_key_with_a_password_is_refused(tls: EngineTLS) -> None:
    Path(tls.key_file).write_text(LOCKED)
    with pytest.raises(PlanError, match=r"key_file .*own.key has a password"):
        planned("decode", tls)


def test_a_key_that_is_not_there_is_refused(tls: EngineTLS) -> None:
    Path(tls.key_file).unlink()
    with pytest.raises(PlanError, match=r"key_file .*own.key cannot be read"):
        planned("decode", tls)


def test_sglang_is_refused(tls: EngineTLS) -> None:
    config = union()
    section = config["motor_engine_union_config"]
    section["engine_type"] = "sglang"
    section["engine_config"] = {"model_path": "/m", "tp_size": 1}
    with pytest.raises(PlanError, match="SGLang"):
        plan_instance(user_config(config), env_config(), Role.UNION, 0, FixedHost(tls=tls))


def test_files_begin_at_the_configuration(tmp_path: Path) -> None:
    block = {"enable_tls": True, "ca_file": "tls/ca.crt", "cert_file": "/other/own.crt", "peer_name": "engine.example"}
    content = {"motor_deploy_config": {"tls_config": {"infer_tls_config": block}}}
    user = UserConfig.model_validate_json(json.dumps(content))
    found = engine_tls(user, tmp_path)
    assert found == EngineTLS(
        str(tmp_path / "tls/ca.crt"),
        "/other/own.crt",
        str(tmp_path / "security/mgmt/keys/server.key"),
        "engine.example",
    )
    assert engine_tls(UserConfig(), tmp_path) is None
