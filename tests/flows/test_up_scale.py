"""A fleet of `pymotor up` while operators change it: more and fewer instances, drains, restarts, a lost Controller."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

from cluster_load import Load, Sendings, known_answers
from local_shell import Shell, wait_for, write_config

RATE = 30.0


def test_more_and_fewer_instances_under_load(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config")).returncode == 0
    known = known_answers(shell.url, 40, random.Random(1))
    with Load([shell.url], known, RATE, random.Random(2)) as sendings:
        scale(shell, "decode", 3)
        scale(shell, "prefill", 2)
        for name in ("decode-0", "decode-1", "decode-2", "prefill-1"):
            wait_for(lambda name=name: answered(sendings, name), f"{name} answers")
        nodes = {node["name"]: node["instance"] for node in shell.status()["controller"]["nodes"]}
        assert nodes["node-decode-2"] == "decode-2"
        assert {"node-decode-1", "decode-1", "decode-2"} <= running(shell)
        scale(shell, "decode", 1)
        scale(shell, "prefill", 1)
    assert set(sendings.outcomes) == {"right"}, sendings.outcomes
    wait_for(lambda: not {"node-decode-1", "node-decode-2", "node-prefill-1"} & running(shell), "released nodes end")
    assert not {"decode-1", "decode-2", "prefill-1"} & running(shell)
    assert not any("--number 1" in line or "--number 2" in line for line in shell.processes())
    log = up_log(shell)
    assert log.count("node-decode-1 starts: ") == 1
    assert "node-decode-1 has ended: it is not needed any more" in log

    scale(shell, "decode", 2)
    # The Coordinator hears of it a moment after the Controller has said that it is done.
    wait_for(lambda: set(shell.states()) == {"encode-0", "prefill-0", "decode-0", "decode-1"}, "decode-1 is told")
    assert "decode-1 " in shell.run("status").stdout
    assert shell.run("logs", "node-decode-1").returncode == 0
    assert shell.ask().status_code == 200


def test_a_role_can_be_scaled_to_nothing_and_back(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    for _ in range(2):
        scale(shell, "decode", 0)
        wait_for(lambda: "node-decode-0" not in running(shell), "its node ends")
        scale(shell, "decode", 1)
    wait_for(lambda: shell.run("status").returncode == 0, "the fleet serves")
    wait_for(lambda: set(shell.states()) == {"prefill-0", "decode-0"}, "both are told")


def test_instances_are_restarted_under_load(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0, p=2, d=2)).returncode == 0
    before = running_ids(shell)
    known = known_answers(shell.url, 40, random.Random(1))
    with Load([shell.url], known, RATE, random.Random(2)) as sendings:
        restarted = shell.run("instances", "restart", "--all", "--wait")
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    assert set(sendings.outcomes) == {"right"}, sendings.outcomes
    engines = ("prefill-0", "prefill-1", "decode-0", "decode-1")
    wait_for(lambda: all(running_ids(shell)[name] != before[name] for name in engines), "new engines are known")
    assert "warning" not in up_log(shell)


def test_status_says_who_drains_and_who_is_cordoned(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0, d=3)).returncode == 0
    for words in (["drain", "decode-1", "--wait"], ["cordon", "decode-2"]):
        done = shell.run("instances", *words, "--reason", "new power supply")
        assert done.returncode == 0, done.stderr
    status = shell.run("status")
    assert status.returncode == 0
    assert "controller: leads, epoch 1" in status.stdout
    assert "nodes: 4 of 4 run an instance" in status.stdout
    assert "decode-1: drained (" in status.stdout
    assert "decode-2: cordoned" in status.stdout
    controller = shell.status()["controller"]
    assert [one["name"] for one in controller["instances"] if one["cordoned"]] == ["decode-2"]
    assert "drained" in shell.run("events").stdout
    for words in (["undrain", "decode-1"], ["uncordon", "decode-2"]):
        assert shell.run("instances", *words, "--wait").returncode == 0
    wait_for(lambda: set(shell.states().values()) == {"active"}, "all are active again")


def test_the_numbers_that_are_wanted_outlive_the_controller(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    scale(shell, "decode", 2)
    pids = running_ids(shell)
    os.kill(pids["controller"], signal.SIGKILL)

    def leads_again() -> bool:
        controller = shell.status()["controller"]
        return controller is not None and controller["complete"] and controller["epoch"] > 1

    wait_for(leads_again, "a new Controller leads and has listened")
    assert "2 are wanted" in shell.run("scale").stdout
    scale(shell, "decode", 1)
    wait_for(lambda: "node-decode-1" not in running(shell), "the released node ends")
    assert running_ids(shell)["decode-0"] == pids["decode-0"]
    assert up_log(shell).count("another decode instance is wanted") == 1


def test_a_node_that_does_not_start_is_told_and_comes_when_it_can(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    config = shell.home / str(shell.port) / "user_config.json"
    right = config.read_text()
    config.write_text("no JSON")
    assert shell.run("scale", "--role", "decode", "--to", "2").returncode == 0
    wait_for(lambda: up_log(shell).count("node-decode-1 starts again") > 1, "it is tried again")
    assert "warning: node-decode-1 ended (exit status 1); the last lines of" in up_log(shell)
    assert shell.ask().status_code == 200
    assert shell.run("status").returncode == 0
    config.write_text(right)
    scale(shell, "decode", 2)
    assert {log.name for log in config.parent.glob("logs/node-decode-*")} == {
        "node-decode-0.log",
        "node-decode-1.log",
    }


def test_a_node_that_does_not_start_is_not_tried_for_ever(shell: Shell, tmp_path: Path) -> None:
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    (shell.home / str(shell.port) / "user_config.json").write_text("no JSON")
    assert shell.run("scale", "--role", "decode", "--to", "2").returncode == 0
    wait_for(lambda: "node-decode-1 starts again" in up_log(shell), "it is told")
    scale(shell, "decode", 1)
    wait_for(lambda: "node-decode-1 is ended: 1 decode instances are wanted" in up_log(shell), "nobody wants it")
    wait_for(lambda: "node-decode-1" not in shell.state()["processes"], "it is gone")
    assert shell.ask().status_code == 200


def test_wishes_that_change_before_they_are_fulfilled(shell: Shell, tmp_path: Path) -> None:
    """Nodes that come too late end; what is there at last is what was wanted at last."""
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    for to in (4, 1, 3, 0):
        assert shell.run("scale", "--role", "decode", "--to", str(to), "--force").returncode == 0
    scale(shell, "decode", 2)

    def settled() -> bool:
        nodes = {node["name"] for node in shell.status()["controller"]["nodes"] if node["role"] == "decode"}
        ours = {name for name in running(shell) if name.startswith("node-decode-")}
        return len(ours) == 2 and nodes == ours

    wait_for(settled, "two nodes are left")
    wait_for(lambda: sorted(shell.states().values()) == ["active"] * 3, "three are active")
    assert shell.ask().status_code == 200


def test_fewer_can_be_wanted_while_the_fleet_starts(shell: Shell, tmp_path: Path) -> None:
    with shell.start_up(write_config(tmp_path / "config", e=0, d=3), "--json") as up:
        try:
            assert up.stdout is not None
            wait_for(
                lambda: shell.run("scale", "--role", "decode", "--to", "1").returncode == 0, "the Controller listens"
            )
            events = (json.loads(line) for line in up.stdout)
            assert any(event["event"] == "ready" for event in events)
            # Which one it is depends on whose node was there first.
            wait_for(lambda: roles(shell) == ["decode", "prefill"], "one decode instance is left")
            assert shell.ask().status_code == 200
            up.send_signal(signal.SIGINT)
            assert "failed" not in [event["event"] for event in events]
        finally:
            up.terminate()
    assert up.returncode == 0


def test_operators_find_the_fleet_or_are_told(shell: Shell, tmp_path: Path) -> None:
    nothing = shell.run("scale")
    assert nothing.returncode == 1
    assert "Start one with `pymotor up`" in nothing.stderr
    assert shell.up(write_config(tmp_path / "config", e=0)).returncode == 0
    assert "decode-0" in shell.run("instances").stdout
    assert "decode: 1 of 1 active" in shell.run("scale", "--port", str(shell.port)).stdout
    assert shell.run("instances", "--name", "another").returncode == 1
    assert shell.run("instances", "--name", "another", "--controller", "http://127.0.0.1:1").returncode == 2

    shell.environment["PYMOTOR_CONTROLLER"] = f"http://127.0.0.1:{shell.port + 3}"
    refused = shell.run("instances")
    assert refused.returncode == 1
    assert "PYMOTOR_CLUSTER_TOKEN" in refused.stderr
    assert shell.run("instances", "--name", str(shell.port)).returncode == 0
    shell.environment["PYMOTOR_CLUSTER_TOKEN_FILE"] = str(shell.home / str(shell.port) / "token")
    assert shell.run("instances").returncode == 0
    assert (
        "no Controller answers at http://127.0.0.1:1 "
        in shell.run("events", "--controller", "http://127.0.0.1:1").stderr
    )


def scale(shell: Shell, role: str, to: int) -> None:
    meant = () if to else ("--force",)
    done = shell.run("scale", "--role", role, "--to", str(to), *meant, "--wait", "--timeout", "90", "--json")
    assert done.returncode == 0, done.stdout + done.stderr + up_log(shell)
    roles: list[dict[str, Any]] = json.loads(done.stdout)["roles"]
    assert [one["active"] for one in roles if one["role"] == role] == [to]


def roles(shell: Shell) -> list[str]:
    return sorted(name.partition("-")[0] for name in shell.states())


def running(shell: Shell) -> set[str]:
    return {name for name, process in shell.status()["processes"].items() if process["running"]}


def running_ids(shell: Shell) -> dict[str, int]:
    return {name: process["pid"] for name, process in shell.state()["processes"].items()}


def up_log(shell: Shell) -> str:
    return (shell.home / str(shell.port) / "logs" / "up.log").read_text()


def answered(sendings: Sendings, instance: str) -> bool:
    return any(instance in one.instances for one in list(sendings.sent))
