"""`pymotor kv-conductor`: what it takes from options, configuration and environment, and when it refuses to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from local_shell import EXAMPLES
from processes import PymotorProcess, wait_until

from free_ports import free_port

TOKEN = {"PYMOTOR_CLUSTER_TOKEN": "a-token-for-these-tests"}
OURS = ("PYMOTOR_CLUSTER", "CONFIG_PATH", "CONTROLLER_SERVICE", "CONDUCTOR_CONFIG_PATH")


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts one and waits until it answers at this port."""
    with ExitStack() as opened:

        def start(port: int, *options: str, **variables: str) -> None:
            log = tmp_path / f"{port}.log"
            process = PymotorProcess(["kv-conductor", *options], log, {**TOKEN, **variables})
            opened.callback(process.end)
            process.wait_until_ok(f"http://127.0.0.1:{port}/readiness")
            said = f"pymotor kv-conductor ready on http://127.0.0.1:{port}\n"
            wait_until(lambda: said in process.tail(), said)

        yield start


def configured(directory: Path, port: int) -> Path:
    """A user_config.json with a conductor there."""
    content = json.loads((EXAMPLES / "sim/pd_hybrid/user_config.json").read_text())
    path = directory / "user_config.json"
    path.write_text(json.dumps({**content, "kv_conductor_config": {"http_server_port": port}}))
    return path


def test_the_port_is_the_configured_one_or_the_stated_one(ready: Callable[..., None], tmp_path: Path) -> None:
    port = free_port()
    config = configured(tmp_path, port)
    ready(port, "--user_config_path", str(config))
    other = free_port()
    ready(other, "--config_dir", str(tmp_path), "--port", str(other), "--fleet", str(tmp_path / "fleet.json"))


def test_in_a_pod_the_environment_says_it(ready: Callable[..., None], tmp_path: Path) -> None:
    port = free_port()
    configured(tmp_path, port)
    ready(port, CONFIG_PATH=str(tmp_path), CONTROLLER_SERVICE="127.0.0.1")
    own = tmp_path / "kv_conductor_config.json"
    alone = free_port()
    own.write_text(json.dumps({"http_server_port": alone, "kvevent_instance": {}}))
    ready(alone, CONDUCTOR_CONFIG_PATH=str(own))


@pytest.mark.parametrize(
    ("options", "variables", "status", "told"),
    [
        (["--host", "0.0.0.0"], {}, 2, "loopback"),
        (["--host", "0.0.0.0"], {}, 2, "set PYMOTOR_CLUSTER_TOKEN, or the file that PYMOTOR_CLUSTER_TOKEN_FILE names"),
        (["--controller", "controller:1026"], {}, 2, "is no URL of a Controller"),
        (["--port", "70000"], {}, 2, "is no port"),
        (["--user_config_path", "/nowhere.json"], {}, 1, "/nowhere.json"),
        ([], {"CONDUCTOR_CONFIG_PATH": "/nowhere.json"}, 1, "/nowhere.json"),
        (["--port", "0"], {"PYMOTOR_CLUSTER_TOKEN": "short"}, 1, "cluster token"),
    ],
)
def test_what_is_refused(options: list[str], variables: dict[str, str], status: int, told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    argv = [sys.executable, "-m", "pymotor", "kv-conductor", *options]
    ended = subprocess.run(argv, env=environment | variables, capture_output=True, text=True, timeout=60)
    assert ended.returncode == status
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("content", ['{"x": 1}', "{}", "[]", '{"instances": 1}', "{"])
def test_a_file_that_is_no_fleet_is_said(ready: Callable[..., None], tmp_path: Path, content: str) -> None:
    fleet = tmp_path / "fleet.json"
    fleet.write_text(content)
    port = free_port()
    ready(port, "--port", str(port), "--fleet", str(fleet))
    log = tmp_path / f"{port}.log"
    said = f"fleet file {fleet} holds no snapshot: "
    wait_until(lambda: said in log.read_text(), said)


def test_a_port_in_use_is_said(ready: Callable[..., None]) -> None:
    port = free_port()
    ready(port, "--port", str(port))
    argv = [sys.executable, "-m", "pymotor", "kv-conductor", "--port", str(port)]
    ended = subprocess.run(argv, env={**os.environ, **TOKEN}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr


def test_it_ends_with_its_parent() -> None:
    read, write = os.pipe()
    argv = [sys.executable, "-m", "pymotor", "kv-conductor", "--port", "0", "--parent-pipe", str(read)]
    with subprocess.Popen(
        argv, env={**os.environ, **TOKEN}, pass_fds=(read,), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        os.close(read)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"pymotor kv-conductor ready on http://127.0.0.1:")
        os.close(write)
        assert process.wait(60) == 0
