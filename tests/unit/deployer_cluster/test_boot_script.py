"""boot.sh: the program of the role, with the arguments and the environment of the pod."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "deployer" / "startup" / "boot.sh"


def boot(directory: Path, ends_with: str = "true", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it where each program prints how it was called and then runs this command."""
    for name in ("pymotor", "mooncake_master"):
        program = directory / name
        program.write_text(f'#!/bin/sh\necho "${{0##*/}} $* CANN=$CANN_VERSION"\n{ends_with}\n')
        program.chmod(0o755)
    environment = {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}", "CANN_INSTALL_PATH": str(directory)}
    argv = ["/bin/bash", SCRIPT, "--port", "1"]
    return subprocess.run(argv, env={**environment, **variables}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("role", "called"),
    [
        ("controller", "pymotor controller --port 1 CANN=\n"),
        ("coordinator", "pymotor coordinator --port 1 CANN=\n"),
        ("encode", "pymotor node-manager --port 1 CANN=9\n"),
        ("union", "pymotor node-manager --port 1 CANN=9\n"),
        ("SINGLE_CONTAINER", "pymotor up --port 1 CANN=9\n"),
        ("kv_pool", "mooncake_master --port 1 CANN=9\n"),
        ("kv_conductor", "pymotor kv-conductor --host 0.0.0.0 --port 1 CANN=\n"),
    ],
)
def test_each_role(tmp_path: Path, role: str, called: str) -> None:
    (tmp_path / "cann").mkdir()
    (tmp_path / "cann" / "set_env.sh").write_text('export CANN_VERSION=9 OTHER="$NOT_SET"\nfalse\n')
    ended = boot(tmp_path, ROLE=role)
    assert (ended.returncode, ended.stdout) == (0, called), ended.stderr


def test_logs_of_engines_have_a_directory_for_each_pod(tmp_path: Path) -> None:
    ended = boot(tmp_path, ROLE="decode", MOTOR_LOG_ROOT_PATH=str(tmp_path / "log"), POD_NAME="vllm-d0-0")
    assert f"node-manager --log-dir {tmp_path}/log/vllm-d0-0 --port 1" in ended.stdout
    ended = boot(tmp_path, ROLE="decode", MOTOR_LOG_ROOT_PATH="/proc/nowhere", POD_NAME="vllm-d0-0")
    assert "node-manager --port 1" in ended.stdout
    assert "cannot be written to" in ended.stderr


def test_a_pod_with_devices_writes_down_which(tmp_path: Path) -> None:
    table = str(tmp_path / "hccl.json")
    ended = boot(tmp_path, ROLE="union", HCCL_PATH=table, POD_IP="10.0.0.7")
    first, second = ended.stdout.splitlines()
    assert first == f"pymotor ranktable collect --hccl --local-host 10.0.0.7 --output {table} CANN="
    assert second.startswith("pymotor node-manager")
    assert "HCCL_PATH" not in ended.stderr
    assert len(boot(tmp_path, ROLE="controller", HCCL_PATH=table).stdout.splitlines()) == 1


def test_without_a_table_of_devices_a_node_manager_starts_too(tmp_path: Path) -> None:
    ended = boot(tmp_path, 'test "$1" = node-manager', ROLE="union", HCCL_PATH="/nowhere/hccl.json")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1].startswith("pymotor node-manager")
    assert "no device table in /nowhere/hccl.json" in ended.stderr


@pytest.mark.parametrize(("role", "told"), [("", "ROLE is not set"), ("$(id)", "ROLE=$(id) is not known")])
def test_no_such_role(tmp_path: Path, role: str, told: str) -> None:
    ended = boot(tmp_path, ROLE=role)
    assert ended.returncode == 1
    assert told in ended.stderr
