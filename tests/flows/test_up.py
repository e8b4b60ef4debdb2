"""`pymotor up`, `down`, `status` and `logs` as a user runs them, on simulated engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_shell import EXAMPLES, SECONDS, Shell, wait_for, write_config

from pymotor.local.greeting import first_request


def test_a_detached_fleet_answers_and_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    up = shell.up(write_config(tmp_path / "config"), "--first-request")
    assert up.returncode == 0, up.stdout + up.stderr
    assert shell.url in up.stdout
    for name in ("coordinator", "encode-0", "prefill-0", "decode-0"):
        assert f"{name} " in up.stdout
    dashboard = re.search(r"dashboard (\S+)", up.stdout)
    assert dashboard is not None
    assert httpx.get(dashboard[1], timeout=SECONDS, follow_redirects=True, trust_env=False).status_code == 200

    status = shell.run("status")
    assert status.returncode == 0, status.stdout
    assert "serving" in status.stdout
    report = shell.status()
    assert {instance["state"] for instance in report["coordinator"]["instances"]} == {"active"}
    assert all(process["running"] for process in report["processes"].values())

    answer = shell.ask()
    assert answer.status_code == 200, answer.text
    assert [leg.split(";")[0].strip() for leg in answer.headers["server-timing"].split(",")] == [
        "encode",
        "prefill",
        "decode",
    ]
    printed = up.stdout[up.stdout.index("curl -i") :].partition("\n\n")[0]
    curl = subprocess.run(["bash", "-c", printed.replace("curl -i", "curl -sS")], capture_output=True, text=True)
    assert json.loads(curl.stdout)["choices"][0]["message"]["content"], curl.stderr

    twice = shell.up(tmp_path / "config")
    assert twice.returncode == 1
    assert "runs already" in twice.stderr
    same_port = shell.up(tmp_path / "config", "--name", "another")
    assert same_port.returncode == 1
    assert f"port {shell.port} is in use" in same_port.stderr
    assert shell.ask().status_code == 200

    logs = shell.run("logs", "-n", "3")
    assert logs.returncode == 0
    assert re.search(r"^coordinator +\| ", logs.stdout, re.MULTILINE)
    assert "decode-0" in shell.run("logs", "up").stdout
    assert "there are: " in shell.run("logs", "nobody").stderr

    down = shell.run("down")
    assert (down.returncode, down.stdout) == (0, f"stopped {shell.port}; no process is left\n")
    assert shell.processes() == []
    assert shell.run("status").returncode == 3
    assert shell.run("down").returncode == 0
    assert not (shell.home / str(shell.port) / "embeddings").exists()


def test_interrupting_the_foreground_stops_everything(shell: Shell, tmp_path: Path) -> None:
    with shell.start_up(write_config(tmp_path / "config"), "--json") as up:
        assert up.stdout is not None
        events = iter(json.loads(line) for line in up.stdout)
        assert any(event["event"] == "ready" for event in events)
        follow = subprocess.Popen(
            [sys.executable, "-m", "pymotor", "logs", "up", "-f"],
            env=shell.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        up.send_signal(signal.SIGINT)
        assert [event["event"] for event in events][-1] == "stopped"
    assert up.returncode == 0
    assert shell.processes() in ([], [f"{sys.executable} -m pymotor logs up -f "])
    assert "no process is left" in follow.communicate(timeout=SECONDS)[0]


def test_a_dashboard_that_is_off_is_not_named(shell: Shell, tmp_path: Path) -> None:
    def switch_off(config: dict[str, Any]) -> None:
        config["motor_coordinator_config"]["dashboard_config"] = {"enable": False}

    up = shell.up(write_config(tmp_path / "config", switch_off, e=0))
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"metrics http://127.0.0.1:{shell.port + 2}/metrics" in up.stdout
    assert "dashboard" not in up.stdout
    page = f"{shell.state()['management_url']}/dashboard"
    assert httpx.get(page, timeout=SECONDS, trust_env=False).status_code == 404


def test_a_killed_up_leaves_nothing_and_the_next_one_starts(shell: Shell, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config", e=0)
    assert shell.up(config).returncode == 0
    os.kill(shell.state()["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: not shell.processes(), "a process outlives the killed `pymotor up`")
    status = shell.run("status")
    assert status.returncode == 3
    assert "was killed" in status.stdout
    again = shell.up(config)
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_lost_engine_is_told_and_starts_again_while_the_rest_goes_on(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", p=2)).returncode == 0
    lost = shell.state()["processes"]["prefill-1"]["pid"]
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: shell.states()["prefill-1"] != "active", "the Coordinator knows that prefill-1 is gone")
    assert shell.states()["prefill-0"] == "active"
    assert shell.ask().status_code == 200
    wait_for(lambda: shell.states()["prefill-1"] == "active", "prefill-1 is back")
    wait_for(lambda: shell.state()["processes"]["prefill-1"]["pid"] != lost, "its new process is known")
    assert shell.run("status").returncode == 0
    assert shell.ask().status_code == 200
    assert "prefill-1 ended (killed by signal 9)" in shell.run("logs", "up", "-n", "100").stdout


def test_the_only_decode_engine_comes_back(shell: Shell, tmp_path: Path) -> None:
    """With nothing left that could answer the fleet waits for it, and answers again with new handoffs."""
    assert shell.up(write_config(tmp_path / "config")).returncode == 0
    os.kill(shell.state()["processes"]["decode-0"]["pid"], signal.SIGKILL)
    wait_for(lambda: shell.states()["decode-0"] != "active", "decode-0 is gone")
    wait_for(lambda: shell.states()["decode-0"] == "active", "decode-0 is back")
    wait_for(lambda: shell.run("status").returncode == 0, "the fleet serves")
    assert shell.ask().status_code == 200


def test_a_fleet_that_cannot_come_back_is_given_up(shell: Shell, tmp_path: Path) -> None:
    with shell.start_up(write_config(tmp_path / "config", e=0)) as up:
        assert up.stdout is not None
        assert any(line.startswith("curl") for line in up.stdout)
        # Nothing starts where its log cannot be written.
        shutil.rmtree(shell.home / str(shell.port) / "logs")
        for name in ("prefill-0", "decode-0"):
            os.kill(shell.state()["processes"][name]["pid"], signal.SIGKILL)
        rest = up.stdout.read()
    assert up.returncode == 1
    assert "starting again did not help" in rest
    assert shell.processes() == []


def test_the_coordinator_starts_again_at_its_port(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    lost = shell.state()["processes"]["coordinator"]["pid"]
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: shell.state()["processes"]["coordinator"]["pid"] != lost, "the Coordinator was started again")
    wait_for(lambda: shell.run("status").returncode == 0, "the fleet serves")
    assert shell.ask().status_code == 200
    assert "coordinator ended (killed by signal 9)" in shell.run("logs", "up", "-n", "100").stdout


def test_without_a_coordinator_that_starts_the_fleet_ends(shell: Shell, tmp_path: Path) -> None:
    with shell.start_up(write_config(tmp_path / "config", e=0)) as up:
        assert up.stdout is not None
        assert any(line.startswith("curl") for line in up.stdout)
        shutil.rmtree(shell.home / str(shell.port) / "logs")
        os.kill(shell.state()["processes"]["coordinator"]["pid"], signal.SIGKILL)
        rest = up.stdout.read()
    assert up.returncode == 1
    assert "starting again did not help; the last one lost is coordinator" in rest
    assert shell.processes() == []
    assert "failed: nothing is left that could answer" in shell.run("status").stdout


def test_a_port_in_use_is_named(shell: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", shell.port + 1)):
        up = shell.up(write_config(tmp_path / "config"))
    assert up.returncode == 1
    assert f"port {shell.port + 1} is in use" in up.stderr
    assert shell.processes() == []


def test_an_engine_that_dies_while_starting_is_quoted(shell: Shell, tmp_path: Path) -> None:
    def bad_flag(config: dict[str, Any]) -> None:
        config["motor_engine_decode_config"]["engine_config"]["sim-speed"] = "sideways"

    up = shell.up(write_config(tmp_path / "config", bad_flag))
    assert up.returncode == 1
    assert "decode-0 ended (exit status 2) before it was ready" in up.stderr
    assert "sideways" in up.stderr
    assert shell.processes() == []
    assert shell.run("status").returncode == 3


def test_stopping_a_fleet_that_still_starts(shell: Shell, tmp_path: Path) -> None:

    with shell.start_up(write_config(tmp_path / "config"), "--detach") as up:
        assert up.stdout is not None
        assert "starting" in next(line for line in up.stdout if "coordinator" in line)
        up.kill()
    wait_for(lambda: not shell.processes(), "the background process ends with the one that waited for it")


def test_the_configuration_for_ascend_runs_on_simulated_engines(shell: Shell) -> None:
    up = shell.up(EXAMPLES / "vllm/epd", "--engine", "sim")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "$.motor_deploy_config.hardware_type: 800I_A2 → cpu" in up.stdout
    assert "MooncakeLayerwiseConnector → NixlConnector" in up.stdout
    request = first_request("qwen3", with_image=True)
    answer = httpx.post(f"{shell.url}/v1/chat/completions", json=request, timeout=60)
    assert answer.status_code == 200, answer.text
    assert "decode-0" in answer.headers["server-timing"]


def test_all_mistakes_of_a_configuration_are_told(shell: Shell, tmp_path: Path) -> None:
    def mistakes(config: dict[str, Any]) -> None:
        config["motor_deploy_config"]["p_instances_num"] = "2"
        config["motor_deploy_config"]["hardware_typ"] = "cpu"

    up = shell.up(write_config(tmp_path / "config", mistakes))
    assert up.returncode == 1
    assert "$.motor_deploy_config.p_instances_num" in up.stderr
    assert "hardware_typ" in up.stderr
    assert shell.processes() == []


def test_a_missing_model_is_told_before_anything_starts(shell: Shell, tmp_path: Path) -> None:
    def real_engine(config: dict[str, Any]) -> None:
        for role in ("encode", "prefill", "decode"):
            section = config[f"motor_engine_{role}_config"]
            section["engine_type"] = "vllm"
            section["engine_config"].pop("sim-speed")
            section["engine_config"]["model"] = "/nowhere/model"

    up = shell.up(write_config(tmp_path / "config", real_engine))
    assert up.returncode == 1
    assert "there is no /nowhere/model" in up.stderr
    assert not (shell.home / str(shell.port)).exists()
    assert "Traceback" not in up.stdout + up.stderr


def test_an_up_that_nobody_reads_any_more_ends(shell: Shell, tmp_path: Path) -> None:
    with shell.start_up(write_config(tmp_path / "config", e=0)) as up:
        assert up.stdout is not None
        up.stdout.readline()
        up.stdout.close()
        assert up.wait(SECONDS) == 1
    assert shell.processes() == []
    assert "nobody can read what it says" in shell.run("status").stdout


@pytest.mark.soak
def test_an_engine_that_hangs_for_long_starts_again(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0, d=2)).returncode == 0
    hanging = shell.state()["processes"]["decode-1"]["pid"]
    os.kill(hanging, signal.SIGSTOP)

    def started_again() -> bool:
        """Between its end and its start the state does not know it."""
        running = shell.state()["processes"].get("decode-1")
        return running is not None and running["pid"] != hanging

    wait_for(started_again, "it was started again", 300)
    wait_for(lambda: shell.run("status").returncode == 0, "the fleet is whole", 60)
    logs = shell.run("logs", "-n", "200").stdout
    assert re.search(r"^node-decode-\d+ +\| .* decode-1 stays unhealthy .* and is ended$", logs, re.MULTILINE), logs


@pytest.mark.soak
def test_an_engine_that_hangs_gets_no_requests_until_it_is_back(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0, d=2)).returncode == 0
    engine = shell.state()["processes"]["decode-1"]["pid"]
    os.kill(engine, signal.SIGSTOP)

    def state() -> str:
        instances = shell.status()["coordinator"]["instances"]
        return str(next(one["state"] for one in instances if one["name"] == "decode-1"))

    wait_for(lambda: state() == "inactive", "the hanging instance is inactive", 120)
    assert shell.run("status").returncode == 0
    os.kill(engine, signal.SIGCONT)
    wait_for(lambda: state() == "active", "it is active again", 60)


@pytest.mark.parametrize(
    "words",
    [
        ["up"],
        ["up", "--config_dir", "x", "--user_config_path", "y"],
        ["up", "--config_dir", "x", "--port", "65533"],
        ["up", "--config_dir", "x", "--engine", "gpu"],
        ["down", "--name", "x", "--all"],
    ],
)
def test_wrong_usage_is_refused(shell: Shell, words: list[str]) -> None:
    assert shell.run(*words).returncode == 2
