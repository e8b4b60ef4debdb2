"""A configuration that changes under a Controller, a NodeManager and a whole `pymotor up`."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from controller_under_test import TOKEN, ControllerUnderTest, pymotor
from images import vision_chat
from local_shell import Shell, wait_for, write_config
from processes import PymotorProcess, wait_until
from scripted_orders import TOKEN as NODE_TOKEN
from scripted_orders import ScriptedController

from free_ports import free_port
from model_node import ModelNode
from pymotor.control_plane.token import TOKEN_VARIABLE
from pymotor.fleet import EndpointState

NEVER = 3600.0
UNION: dict[str, Any] = {
    "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu", "job_id": "tests"},
    "motor_engine_union_config": {
        "engine_type": "sim",
        "engine_config": {"model": "tiny", "served_model_name": "tiny", "max_model_len": 2048},
        "motor_nodemanger_config": {
            "endpoint_config": {"base_port": 0},
            "basic_config": {"heartbeat_interval_seconds": NEVER},
        },
    },
}


class ConfigFile:
    """A `user_config.json` that is changed in steps."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = copy.deepcopy(content)
        self.write()

    def write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.content))
        new.replace(self.path)

    def change(self, section: str, **keys: Any) -> None:
        """Keys of a section that is named by its path with dots."""
        found = self.content
        for step in section.split("."):
            found = found.setdefault(step, {})
        found.update(keys)
        self.write()


@pytest.fixture
def observed_port() -> int:
    return free_port()


@pytest.fixture
def file(tmp_path: Path, observed_port: int) -> ConfigFile:
    file = ConfigFile(tmp_path / "user_config.json", UNION)
    file.change("motor_controller_config.api_config", observability_api_port=observed_port)
    file.change("motor_controller_config.instance_config", node_timeout=NEVER, silent_grace=NEVER, listen_seconds=0.0)
    return file


@pytest.fixture
def controller(tmp_path: Path, file: ConfigFile) -> Iterator[ControllerUnderTest]:
    running = ControllerUnderTest(
        tmp_path / "state", tmp_path / "controller.log", "--user_config_path", str(file.path), token=TOKEN
    )
    yield running
    running.end()


def answers(url: str) -> bool:
    try:
        return plain_http.get(url, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_a_controller_judges_by_its_new_thresholds(controller: ControllerUnderTest, file: ConfigFile) -> None:
    node = ModelNode("a")
    controller.serve_with(node)
    assert [one["state"] for one in controller.get("/instances")["instances"]] == ["active"]
    file.change("motor_controller_config.instance_config", node_timeout=0.5)
    wait_until(
        lambda: [one["state"] for one in controller.get("/instances")["instances"]] == ["inactive"],
        "a node that says nothing is silent by the new threshold",
    )
    assert (controller.get("/config")["needs_restart"], controller.get("/config")["error"]) == ([], None)
    file.change("motor_controller_config.standby_config", enable_master_standby=True)
    key = "$.motor_controller_config.standby_config.enable_master_standby"
    wait_until(lambda: controller.get("/config")["needs_restart"] == [key], "what waits is told")


def test_the_observability_port_opens_and_closes(
    controller: ControllerUnderTest, file: ConfigFile, observed_port: int
) -> None:
    alarms = f"http://127.0.0.1:{observed_port}/observability/alarms"
    assert not answers(alarms)
    with socket.create_server(("127.0.0.1", observed_port)):
        file.change("motor_controller_config.observability_config", observability_enable=True)
        wait_until(lambda: controller.get("/config")["error"] is not None, "a port that is taken is told")
        assert str(observed_port) in controller.get("/config")["error"]["message"]
        ready = plain_http.get(f"{controller.url}/readiness", timeout=60).json()
        assert (ready["ready"], ready["config_in_force"]) == (True, False)
    file.change("motor_controller_config.logging_config", log_level="DEBUG")
    wait_until(lambda: answers(alarms), "it is tried again with the next change")
    assert controller.get("/config")["error"] is None
    file.change("motor_controller_config.observability_config", observability_enable=False)
    wait_until(lambda: not answers(alarms), "it is closed")


def test_the_state_of_the_configuration_needs_the_token(
    controller: ControllerUnderTest, file: ConfigFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain_http.get(f"{controller.url}/config", timeout=60).status_code == 401
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    without = pymotor("config", controller.url, url="")
    assert (without.returncode, "wants the cluster token" in without.stderr) == (1, True)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    told = pymotor("config", controller.url, url="")
    assert json.loads(told.stdout)["revision"] == hashlib.sha256(file.path.read_bytes()).hexdigest(), told.stderr


def test_a_node_manager_takes_its_intervals_and_checks(tmp_path: Path, file: ConfigFile) -> None:
    port = free_port()
    with ScriptedController() as controller:
        node = PymotorProcess(
            [
                "node-manager", "--config_dir", str(tmp_path), "--role", "union", "--node", "a", "--port", str(port),
                "--address", "127.0.0.1", "--controller", controller.url, "--log-dir", str(tmp_path / "logs"),
                "--grace", "0",
            ],
            tmp_path / "node.log",
            {TOKEN_VARIABLE: NODE_TOKEN},
        )  # fmt: skip
        try:
            controller.give("union-0")
            served = controller.wait_for(lambda report: report.share is not None and report.servers, "it has servers")
            assert served.share is not None
            engine = served.share.endpoints[0].url
            controller.wait_for(lambda report: {one.state for one in report.servers} == {EndpointState.READY}, "ready")
            file.change("motor_engine_union_config.health_check_config", enable_virtual_inference=True)
            wait_until(lambda: requests_finished(engine), "the engine is asked for a token", 60)
            file.change(
                "motor_engine_union_config.motor_nodemanger_config.basic_config", heartbeat_interval_seconds=0.2
            )
            controller.give("union-0", stop_seconds=6.0)  # the report that waits is answered
            controller.wait_for(lambda report: report.wait_seconds == 0.2, "it reports as often as is now wanted")
            file.change("motor_engine_union_config.engine_config", max_model_len=1024)
            key = "$.motor_engine_union_config.engine_config.max_model_len"
            wait_until(lambda: node_config(port)["needs_restart"] == [key], "what engines read at their start waits")
        finally:
            node.end()


def requests_finished(engine: str) -> float:
    text = plain_http.get(f"{engine}/metrics", timeout=60).text
    return sum(map(float, re.findall(r"^vllm:request_success_total\{.*?\} (\S+)$", text, re.MULTILINE)))


def node_config(port: int) -> dict[str, Any]:
    found: dict[str, Any] = plain_http.get(f"http://127.0.0.1:{port}/config", timeout=60).raise_for_status().json()
    return found


def test_up_hands_on_what_its_processes_take_up(shell: Shell, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config")
    up = shell.up(config, "--engine", "sim")
    assert up.returncode == 0, up.stdout + up.stderr
    body = {**vision_chat(1, 2), "model": "qwenvl"}

    def status() -> int:
        return httpx.post(f"{shell.url}/v1/chat/completions", json=body, timeout=60).status_code

    assert status() == 200
    file = ConfigFile(config / "user_config.json", json.loads((config / "user_config.json").read_text()))
    file.change("motor_coordinator_config.request_limit", max_media_items=1)
    wait_for(lambda: status() == 400, "the Coordinator has it")
    file.change("motor_engine_decode_config.engine_config", max_num_seqs=3)
    told = "needs a restart of this part: $.motor_engine_decode_config.engine_config.max_num_seqs"
    wait_for(lambda: told in shell.run("logs", "up").stdout, "what waits for the next up is told")
    key = "$.motor_engine_decode_config.engine_config.max_num_seqs"
    wait_for(lambda: shell.status()["configuration"]["needs_restart"] == [key], "`status` has it too")
    assert re.search(rf"waits for a restart of the fleet .*:\n    {re.escape(key)}\n", shell.run("status").stdout)
    file.path.write_text("{")
    wait_for(lambda: "is not in force" in shell.run("logs", "up").stdout, "a broken file is told")
    wait_for(lambda: shell.status()["configuration"]["error"] is not None, "`status` tells it too")
    text = shell.run("status").stdout
    told = r"refused, .* until this is mended:\n    .*user_config.json: \$: line 1"
    assert re.search(told, text)
    assert status() == 400
    file.change("motor_coordinator_config.request_limit", max_media_items=2)
    wait_for(lambda: status() == 200, "and mended")
    wait_for(lambda: shell.status()["configuration"]["error"] is None, "which `status` has as well")
    assert "refused" not in shell.run("status").stdout
    told_later(shell, tmp_path, file)


def told_later(shell: Shell, tmp_path: Path, file: ConfigFile) -> None:
    """A file is refused, then mended while the fleet's state cannot be written."""
    file.path.write_text("{")
    wait_for(lambda: shell.status()["configuration"]["error"] is not None, "`status` has it again")
    directory = shell.home / str(shell.port)
    (directory / "state.json").rename(tmp_path / "state.json")
    (directory / "state.json").mkdir()
    file.write()
    log = directory / "logs" / "up.log"
    wait_for(lambda: "`pymotor status` cannot be told" in log.read_text(), "that it is mended")
    (directory / "state.json").rmdir()
    wait_for((directory / "state.json").is_file, "it is tried again")
    assert shell.status()["configuration"]["error"] is None
    assert "`pymotor status` is told again" in log.read_text()
