"""`pymotor controller` as a process: reports, orders, watches, leaders, and the verbs of operators."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import plain_http
import pytest
from controller_under_test import TOKEN, ControllerUnderTest, PlayedNodes, pymotor, user_config
from msgspec.structs import replace
from processes import wait_until

from model_node import ModelNode
from pymotor.fleet import (
    ControllerRefusal,
    FleetSnapshot,
    FleetWatch,
    InstanceState,
    decode_message,
    decode_snapshot,
    encode_message,
)

Start = Callable[..., ControllerUnderTest]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Controllers that share a state directory and end with the test."""
    with ExitStack() as opened:
        started = 0

        def one(*words: str, token: str | None = None) -> ControllerUnderTest:
            nonlocal started
            started += 1
            log = tmp_path / f"controller-{started}.log"
            controller = ControllerUnderTest(tmp_path / "state", log, *words, token=token)
            opened.callback(controller.end)
            return controller

        yield one


def watched(controller: ControllerUnderTest, have: FleetSnapshot | None = None, wait: float = 0) -> FleetSnapshot:
    """The next snapshot after `have`."""
    while True:
        watch = FleetWatch(
            coordinator="c",
            epoch=have.epoch if have else -1,
            version=have.version if have else -1,
            wait_seconds=wait,
        )
        response = controller.post("/fleet/watch", encode_message(watch))
        if response.status_code == 200:
            return decode_snapshot(response.content)
        assert response.status_code == 204


def test_a_report_brings_an_order_and_a_snapshot(start: Start) -> None:
    controller = start()
    node = ModelNode("a")
    node.take(controller.say(node.report()))
    assert node.held is not None
    assert (node.held.instance, node.held.epoch, node.held.master_address) == ("union-0", 1, "a")
    node.work()
    controller.say(node.report())
    snapshot = watched(controller)
    assert [(one.name, one.state) for one in snapshot.instances] == [("union-0", InstanceState.ACTIVE)]
    assert snapshot.complete


def test_orders_and_snapshots_come_to_those_who_wait(start: Start) -> None:
    controller = start()
    node = ModelNode("a")
    controller.serve_with(node)
    snapshot = watched(controller)
    with ThreadPoolExecutor() as threads:
        order = threads.submit(controller.say, node.report(wait_seconds=60))
        newer = threads.submit(watched, controller, snapshot, 60)
        assert controller.post("/instances/union-0/cordon").status_code == 200
        while not (reply := order.result()).order.cordoned:
            order = threads.submit(controller.say, node.report(wait_seconds=60))
        assert reply.order is not None
        assert newer.result().instances[0].state is InstanceState.INACTIVE


def test_who_has_heard_of_a_newer_leader_is_refused_and_never_told_that_nothing_is_new(start: Start) -> None:
    controller = start()
    node = ModelNode("a")
    controller.serve_with(node)
    snapshot = watched(controller)
    newer = FleetWatch(coordinator="c", epoch=9, version=snapshot.version)
    assert controller.post("/fleet/watch", encode_message(newer)).status_code == 503
    wait_until(lambda: controller.leads, "it leads again")
    assert watched(controller).epoch > 9
    assert node.held is not None
    node.held = replace(node.held, epoch=99)
    assert controller.post("/nodes/report", encode_message(node.report())).status_code == 503
    wait_until(lambda: controller.leads, "it leads again")
    assert watched(controller).epoch > 99


def test_only_who_shows_the_token_is_answered(start: Start) -> None:
    controller = start(token=TOKEN)
    report = encode_message(ModelNode("a").report())
    for headers in ({}, {"Authorization": "Bearer another-token-of-somebody"}):
        for path in ("/nodes/report", "/fleet/watch", "/scale", "/nowhere"):
            response = plain_http.post(controller.url + path, content=report, headers=headers)
            assert response.status_code == 401
            assert "token" in decode_message(response.content, ControllerRefusal).error
    assert controller.ready
    controller.say(ModelNode("a").report())
    assert TOKEN not in controller.process.tail()


def test_bad_messages_are_refused_with_a_reason(start: Start) -> None:
    controller = start()
    node = ModelNode("a")
    early = node.report()
    controller.say(node.report())
    refused = [
        (400, controller.post("/nodes/report", b'{"node": 1}')),
        (400, controller.post("/fleet/watch", b"[")),
        (409, controller.post("/nodes/report", encode_message(early))),
        (404, controller.post("/instances/union-7/drain")),
        (422, controller.post("/scale", {"role": "union", "to": -1})),
        (422, controller.post("/scale", b'{"role": "union"' + b" " * (1 << 20))),
        (404, controller.post("/nowhere")),
        (413, controller.post("/nodes/report", b" " * (9 << 20))),
    ]
    for status, response in refused:
        assert response.status_code == status, response.text
        assert decode_message(response.content, ControllerRefusal).error
        assert len(response.content) < 1000, "it does not repeat what was sent"
        assert ".py" not in response.text
    asked = plain_http.post(controller.url + "/scale", content=b'{"role": "union", "to": 1}', timeout=60)
    assert "Content-Type: application/json" in asked.text


def test_a_node_whose_waiting_report_breaks_is_silent(start: Start) -> None:
    controller = start()
    node = ModelNode("a")
    controller.serve_with(node)
    body = encode_message(node.report(wait_seconds=60))
    host, port = controller.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /nodes/report HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
    wait_until(lambda: controller.get("/nodes")[0]["silent"], "the node is silent")
    kinds = [event["kind"] for event in controller.get("/events")["events"]]
    assert kinds[-2:] == ["node_silent", "instance_inactive"]


def test_a_standby_refuses_names_the_leader_and_takes_over(start: Start, tmp_path: Path) -> None:
    config = str(user_config(tmp_path, standby=True))
    leader = start("--user_config_path", config)
    wait_until(lambda: leader.leads, "the first leads")
    standby = start("--user_config_path", config)
    node = ModelNode("a")
    leader.serve_with(node)
    message = encode_message(node.report())
    wait_until(lambda: _leader_named_by(standby, message) == leader.url, "the standby names the leader")
    assert pymotor("instances", url=standby.url).returncode == 0
    leader.end()
    wait_until(lambda: standby.leads, "the standby leads")
    assert leader.process.tail().count("Traceback") == 0
    reply = standby.say(node.report())
    assert reply.epoch == 2


def _leader_named_by(controller: ControllerUnderTest, message: bytes) -> str:
    response = controller.post("/nodes/report", message)
    assert response.status_code == 503
    return decode_message(response.content, ControllerRefusal).leader


def test_a_leader_that_was_paused_answers_nothing_when_it_goes_on(start: Start, tmp_path: Path) -> None:
    config = str(user_config(tmp_path, standby=True, lease=1.0))
    first = start("--user_config_path", config)
    wait_until(lambda: first.leads, "the first leads")
    second = start("--user_config_path", config)
    node = ModelNode("a")
    first.serve_with(node)
    first.pause()
    with ThreadPoolExecutor() as threads:
        asked = [
            threads.submit(first.post, "/nodes/report", encode_message(node.report())),
            threads.submit(first.post, "/fleet/watch", encode_message(FleetWatch(coordinator="c"))),
            threads.submit(first.post, "/scale", {"role": "union", "to": 0}),
        ]
        wait_until(lambda: second.leads, "the second leads")
        first.go_on()
        assert [one.result().status_code for one in asked] == [503, 503, 503]
    wait_until(lambda: _leader_named_by(first, encode_message(node.report())) == second.url, "the new one is named")
    assert second.say(node.report()).epoch == 2


def test_after_a_crash_everything_is_learnt_again(start: Start, tmp_path: Path) -> None:
    config = str(user_config(tmp_path, listen=3.0))
    first = start("--user_config_path", config)
    nodes = [ModelNode("a"), ModelNode("b")]
    for node in nodes:
        first.serve_with(node)
    assert first.post("/instances/union-1/cordon").status_code == 200
    nodes[1].take(first.say(nodes[1].report()))
    first.process.kill()
    second = start("--user_config_path", config)
    assert not second.ready
    assert not watched(second).complete
    for node in nodes:
        assert second.say(node.report()).order is None
    snapshot = watched(second)
    assert {one.name: one.state.value for one in snapshot.instances} == {"union-0": "active", "union-1": "inactive"}
    with ThreadPoolExecutor() as threads:
        replies = list(threads.map(second.say, [node.report(wait_seconds=60) for node in nodes]))
    while any(reply.order is None for reply in replies):
        replies = [second.say(node.report(wait_seconds=60)) for node in nodes]
    assert [(reply.order.epoch, reply.order.instance) for reply in replies if reply.order] == [
        (2, "union-0"),
        (2, "union-1"),
    ]
    assert watched(second).complete
    node = ModelNode("c")
    node.take(second.say(node.report()))
    assert node.held is not None
    assert node.held.instance == "union-2"


def test_operators_restart_all_scale_and_read_what_happened(start: Start) -> None:
    controller = start()
    nodes = [ModelNode(name) for name in ("a", "b")]
    with PlayedNodes(controller, *nodes):
        wait_until(lambda: _states(controller) == {"union-0": "active", "union-1": "active"}, "both serve")
        restarted = pymotor("instances", "restart", "--all", url=controller.url)
        assert restarted.returncode == 0, restarted.stderr
        assert "1 of 2: union-0" in restarted.stdout
        assert [one["generation"] for one in controller.get("/instances")["instances"]] == [2, 2]
        drained = pymotor("instances", "drain", "union-1", "--wait", "--reason", "a look", url=controller.url)
        assert drained.returncode == 0, drained.stderr
        refused = pymotor("instances", "restart", "union-0", url=controller.url)
        assert refused.returncode == 1
        assert "last active instance of union" in refused.stderr
        assert pymotor("instances", "undrain", "--wait", "union-1", url=controller.url).returncode == 0
        assert pymotor("instances", "cordon", "union-1", url=controller.url).returncode == 0
        behind = pymotor("instances", "restart", "union-1", "--wait", "--timeout", "60", url=controller.url)
        assert behind.returncode == 0, behind.stderr
        assert pymotor("instances", "uncordon", "union-1", "--wait", url=controller.url).returncode == 0
        assert "generation: 3" in pymotor("instances", "show", "union-1", url=controller.url).stdout
        scaled = pymotor("scale", "--role", "union", "--to", "1", "--wait", url=controller.url)
        assert scaled.returncode == 0, scaled.stderr
        assert _states(controller) == {"union-0": "active"}
        assert sorted(node.ended for node in nodes) == [False, True]
        more = pymotor("scale", "--role", "union", "--to", "3", url=controller.url)
        assert "2 nodes have to be started" in more.stdout
        assert "warning" not in more.stderr
        refused = pymotor("scale", "--role", "union", "--to", "0", url=controller.url)
        assert refused.returncode == 1
        assert "with 0 instances union serves nothing: requests are answered by" in refused.stderr
        assert "Now 1 serve; nothing was changed. If it is meant, add --force" in refused.stderr
        assert [one["target"] for one in controller.get("/scale")["roles"]] == [3]
        nobody = pymotor("scale", "--role", "union", "--to", "0", "--force", url=controller.url)
        assert (nobody.returncode, "warning: with 0 instances" in nobody.stderr) == (0, True)
        assert [one["target"] for one in controller.get("/scale")["roles"]] == [0]
        for _ in range(2):
            never = pymotor("scale", "--role", "encode", "--to", "0", url=controller.url)
            assert (never.returncode, never.stdout, never.stderr) == (0, "encode: 0 of 0 active, 0 are wanted\n", "")
        useless = pymotor("scale", "--role", "union", "--to", "1", "--force", url=controller.url)
        assert (useless.returncode, "--force changes nothing with --to 1" in useless.stderr) == (0, True)
    told = pymotor("events", url=controller.url)
    assert told.returncode == 0
    assert "union-1: one" not in told.stdout
    for kind in ("leads", "node_joined", "drain_begins", "drained", "generation_raised", "instance_gone"):
        assert f"  {kind}  " in told.stdout
    assert pymotor("instances", "drain", url=controller.url).returncode == 2
    assert pymotor("instances", "drain", "union-0", "--limit", "nan", url=controller.url).returncode == 2
    assert pymotor("instances", url="http://127.0.0.1:9").returncode == 1
    alone = pymotor("scale", "--force", url=controller.url)
    assert (alone.returncode, alone.stderr) == (2, "pymotor scale: --force goes with --role and --to 0\n")


def _states(controller: ControllerUnderTest) -> dict[str, str]:
    return {one["name"]: one["state"] for one in controller.get("/instances")["instances"]}


def test_a_second_controller_that_is_no_standby_fails(start: Start, tmp_path: Path) -> None:
    config = str(user_config(tmp_path, lease=1.0))
    first = start("--user_config_path", config)
    words = ["controller", "--port", "0", "--state-dir", str(tmp_path / "state"), "--user_config_path", config]
    second = _run(*words)
    assert second.returncode == 1
    assert f"another Controller leads at {first.url}" in second.stderr
    assert first.ready


def test_without_a_token_it_listens_on_loopback_only(tmp_path: Path) -> None:
    refused = _run("controller", "--port", "0", "--state-dir", str(tmp_path), "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "loopback" in refused.stderr


def test_it_ends_with_its_parent(start: Start, tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "theirs, ours = os.pipe()\n"
        "child = subprocess.Popen([sys.executable, '-m', 'pymotor', 'controller', '--port', '0', '--state-dir',"
        " sys.argv[1], '--parent-pipe', str(theirs)], pass_fds=[theirs], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nos.close(ours)\nsys.exit(child.wait(60))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "state")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pymotor", *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
