"""`pymotor up` with a management plane that speaks TLS: every part, every verb, a KV Conductor; strangers outside."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_shell import Shell, wait_for, write_config
from test_up_kv_conductor import with_conductor

from certificates import OPENSSL, make_ca, make_certificate

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

FILES = {"enable_tls": True, "ca_file": "tls/ca.crt", "cert_file": "tls/server.crt", "key_file": "tls/server.key"}


def with_tls(config: dict[str, Any]) -> None:
    with_conductor(config)
    config["motor_coordinator_config"]["scheduler_config"]["scheduler_type"] = "kv_cache_affinity"
    planes = {"mgmt_tls_config": FILES, "observability_tls_config": FILES}
    config["motor_deploy_config"]["tls_config"] = planes


def certified(directory: Path, **made: Any) -> Path:
    """A configuration with its certificates beside it."""
    write_config(directory, with_tls)
    authority = make_ca(directory / "authority")
    make_certificate(authority, directory / "tls", **made)
    shutil.copy(authority.ca_file, directory / "tls" / "ca.crt")
    return directory


def test_a_fleet_whose_parts_know_each_other_by_certificates(shell: Shell, tmp_path: Path) -> None:
    config = certified(tmp_path / "config")
    up = shell.up(config)
    assert up.returncode == 0, up.stdout + up.stderr
    state = shell.state()
    for name in ("management_url", "observability_url", "controller_url", "conductor_url"):
        assert state[name].startswith("https://127.0.0.1:"), name
    wait_for(lambda: "2 of 2 publishers of events are live" in shell.run("status").stdout, "publishers are followed")

    question = {"model": "a-model", "messages": [{"role": "user", "content": "Which way? " * 40}], "max_tokens": 1}

    def is_answered() -> bool:
        httpx.post(f"{shell.url}/v1/chat/completions", json=question, timeout=60).raise_for_status()
        explained = shell.run("explain", "--json")
        assert explained.returncode == 0, explained.stderr
        return "answered" in explained.stdout

    wait_for(is_answered, "the conductor is asked and answers in time")
    assert "2 of 2 publishers of events are live, http" in shell.run("status").stdout
    shown = [f"--{key.replace('_', '-')}={config / name}" for key, name in FILES.items() if key != "enable_tls"]
    verbs = [["instances"], ["events"], ["top", "--once", "--interval", "0.1"], ["config", state["controller_url"]]]
    verbs += [["config", state["management_url"]]]
    for verb in verbs:
        words = [*verb, *shown] if verb[0] == "config" else verb
        done = shell.run(*words)
        assert done.returncode == 0, (verb, done.stderr)
    scaled = shell.run("scale", "--role", "union", "--to", "1")
    assert scaled.returncode == 0, scaled.stderr

    trusting = ssl.create_default_context(cafile=str(config / "tls" / "ca.crt"))
    for name in ("management_url", "observability_url", "controller_url", "conductor_url"):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{state[name]}/liveness", verify=trusting, timeout=10)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{state[name].replace('https', 'http')}/liveness", timeout=10)
    assert shell.run("down").returncode == 0
    key = (config / "tls" / "server.key").read_text().splitlines()[1]
    token = (shell.home / str(shell.port) / "token").read_text().strip()
    for log in (shell.home / str(shell.port) / "logs").iterdir():
        assert key not in log.read_text()
        assert token not in log.read_text()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"ips": ()}, "with the subject alternative name IP:127.0.0.1"),
        ({"expired": True}, "has expired; make a new one"),
    ],
)
def test_certificates_that_no_part_would_take_are_told_before_anything_starts(
    shell: Shell, tmp_path: Path, made: dict[str, Any], expected: str
) -> None:
    up = shell.up(certified(tmp_path / "config", **made))
    assert up.returncode == 1
    assert "$.motor_deploy_config.tls_config.mgmt_tls_config: cert_file" in up.stderr
    assert expected in up.stderr
    assert shell.processes() == []
