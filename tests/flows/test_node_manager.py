"""A NodeManager with simulated engines before a Controller that the test plays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_http
import psutil
import pytest
from processes import PymotorProcess, wait_until
from scripted_orders import TOKEN, ScriptedController

from free_ports import free_port
from pymotor.control_plane.token import TOKEN_VARIABLE
from pymotor.fleet import ControllerRefusal, EndpointState, InstanceState, NodeReport

CONFIG: dict[str, Any] = {
    "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu", "job_id": "tests"},
    "motor_engine_union_config": {
        "engine_type": "sim",
        "engine_config": {"model": "tiny", "served_model_name": "tiny", "max_model_len": 2048},
        "motor_nodemanger_config": {"endpoint_config": {"base_port": 0}},
    },
}
GONE, READY, UNHEALTHY = EndpointState.GONE, EndpointState.READY, EndpointState.UNHEALTHY


class Node:
    """One NodeManager as a process."""

    def __init__(self, directory: Path, name: str, controllers: str, config: dict[str, Any], *options: str) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "user_config.json").write_text(json.dumps(config))
        self.mark = f"PYMOTOR_TEST_NODE={directory}"
        self.log = directory / "node.log"
        self.logs = directory / "logs"
        self.process = PymotorProcess(
            [
                "node-manager", "--config_dir", str(directory), "--role", "union", "--node", name, "--port", "none",
                "--address", "127.0.0.1", "--controller", controllers, "--log-dir", str(self.logs), *options,
            ],
            self.log,
            {TOKEN_VARIABLE: TOKEN, "PYMOTOR_TEST_NODE": str(directory)},
        )  # fmt: skip

    def processes(self) -> list[int]:
        """All that it started and that still lives, itself included."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PYMOTOR_TEST_NODE") == self.mark.partition("=")[2]:
                    found.append(process.pid)
        return found

    def engine(self) -> psutil.Process:
        """The engine server itself."""
        (found,) = [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if process.cmdline()[1:4] == ["-m", "pymotor", "sim-engine"]
        ]
        return found

    def wait_ended(self) -> int:
        """Its exit status."""
        return self.process._process.wait(60)


MakeNode = Callable[..., Node]


@pytest.fixture
def controller() -> Iterator[ScriptedController]:
    with ScriptedController() as playing:
        yield playing


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Start NodeManagers that end with the test and leave nothing."""
    nodes: list[Node] = []

    def make(controllers: str, *options: str, name: str = "node-a", config: dict[str, Any] = CONFIG) -> Node:
        node = Node(tmp_path / name, name, controllers, config, "--grace", "1", *options)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.process.ask_to_end()
    for node in nodes:
        node.process.end()
        wait_until(lambda node=node: not node.processes(), f"nothing of {node.mark} is left")  # type: ignore[misc]


def states(report: NodeReport) -> list[EndpointState]:
    return [server.state for server in report.servers]


def all_ready(report: NodeReport) -> bool:
    return bool(report.servers) and set(states(report)) == {READY}


def serving(controller: ScriptedController, since: int = 0) -> NodeReport:
    return controller.wait_for(all_ready, "all servers are ready", since)


def test_an_order_is_followed_and_reported(controller: ScriptedController, make_node: MakeNode) -> None:
    port = free_port()
    node = make_node(controller.url, "--port", str(port), "--machine", "rack-1", "--number", "3")
    first = controller.wait_for(lambda report: True, "it reports")
    assert (first.held, first.share, first.servers, first.started_generation) == (None, None, (), None)
    assert (first.node, first.job, first.machine, first.preferred_number) == ("node-a", "tests", "rack-1", 3)
    node.process.wait_until_ok(f"http://127.0.0.1:{port}/health")
    assert plain_http.get(f"http://127.0.0.1:{port}/readiness").status_code == 503
    order = controller.give("union-3")
    report = serving(controller)
    assert report.held == order
    assert report.started_generation == 1
    share = report.share
    assert share is not None
    assert (share.name, share.state, share.models) == ("union-3", InstanceState.ACTIVE, ("tiny",))
    assert [(one.id, one.state) for one in share.endpoints] == [("union-3/0", READY)]
    assert plain_http.get(f"{share.endpoints[0].url}/health").status_code == 200
    loaded = controller.wait_for(lambda one: one.servers and one.servers[0].load_known, "the engine's load")
    assert (loaded.servers[0].running, loaded.servers[0].waiting) == (0, 0)
    assert plain_http.get(f"http://127.0.0.1:{port}/readiness").status_code == 200
    seen = plain_http.get(f"http://127.0.0.1:{port}/status").json()
    assert (seen["node"], seen["started_generation"]) == ("node-a", 1)
    assert "pymotor node-manager ready, reports to " + controller.url in node.log.read_text()
    assert (node.logs / "union-3.log").exists()
    assert TOKEN not in node.log.read_text()
    assert controller.strangers == 0
    assert [one.sequence for one in controller.reports] != []
    assert len({one.sequence for one in controller.reports}) == len(controller.reports)


def test_a_killed_engine_is_told_at_once_and_starts_again(controller: ScriptedController, make_node: MakeNode) -> None:
    node = make_node(controller.url)
    controller.give()
    serving(controller)
    killed, since = node.engine(), controller.count
    killed.kill()
    gone = controller.wait_for(lambda one: states(one) == [GONE], "the engine is gone", since)
    assert gone.wait_seconds == 0, "it does not wait for the answer to the last report"
    assert "killed by signal 9" in gone.servers[0].detail
    assert gone.share is not None
    assert gone.share.state is InstanceState.INACTIVE
    assert [fault.code for fault in gone.faults] == [0x1000001]
    back = serving(controller, since)
    assert back.servers[0].restarts == 1
    assert back.started_generation == 1
    assert node.engine().pid != killed.pid
    assert not back.faults


def test_a_greater_generation_is_another_run_and_an_older_epoch_is_refused(
    controller: ScriptedController, make_node: MakeNode
) -> None:
    node = make_node(controller.url)
    controller.give()
    serving(controller)
    before, since = node.engine(), controller.count
    controller.give(generation=2)
    report = controller.wait_for(
        lambda one: one.started_generation == 2 and all_ready(one), "generation 2 is ready", since
    )
    after = node.engine()
    assert before.pid != after.pid
    assert not before.is_running()
    assert report.servers[0].restarts == 0
    controller.epoch = 2
    held = controller.give(generation=2, draining=True)
    controller.wait_for(lambda one: one.held == held, "the order of the new leader is held")
    controller.epoch = 1
    controller.give("", revision=99)
    since = controller.count
    controller.wait_for(lambda one: one.wait_seconds > 0, "it goes on reporting", since)
    wait_until(lambda: "a reply of epoch 1 is refused" in node.log.read_text(), "the old leader is refused")
    assert all(one.held == held for one in controller.reports[since:])
    assert node.engine().pid == after.pid


def test_nothing_is_wanted_then_something_then_it_is_released(
    controller: ScriptedController, make_node: MakeNode
) -> None:
    node = make_node(controller.url)
    controller.give()
    serving(controller)
    engine = node.engine()
    nothing = controller.give("")
    idle = controller.wait_for(lambda one: one.held == nothing and not one.servers, "nothing runs")
    assert (idle.share, idle.started_generation) == (None, None)
    assert not engine.is_running()
    controller.give("union-1")
    controller.wait_for(
        lambda one: all_ready(one) and one.share is not None and one.share.name == "union-1", "another instance"
    )
    released = controller.give("union-1", released=True)
    assert node.wait_ended() == 0
    assert (controller.reports[-1].held, controller.reports[-1].servers) == (released, ())
    assert node.processes() == []


def test_asked_to_end_it_waits_for_the_drain(controller: ScriptedController, make_node: MakeNode) -> None:
    node = make_node(controller.url, "--grace", "600")
    controller.give()
    serving(controller)
    node.process.ask_to_end()
    since = controller.count
    leaving = controller.wait_for(lambda one: one.leaving, "it leaves")
    assert states(leaving) == [READY]
    draining = controller.give(draining=True)
    drained = controller.wait_for(lambda one: one.held == draining and one.leaving, "it is drained", since)
    assert drained.share is not None
    assert drained.share.state is InstanceState.DRAINING
    assert states(drained) == [READY]
    controller.give("")
    assert node.wait_ended() == 0
    assert controller.reports[-1].servers == ()
    assert node.processes() == []


def test_out_of_patience_or_asked_twice_it_ends_without_the_controller(
    controller: ScriptedController, make_node: MakeNode
) -> None:
    impatient = make_node(controller.url, "--grace", "0.1")
    controller.give()
    serving(controller)
    controller.close()
    impatient.process.ask_to_end()
    assert impatient.wait_ended() == 0
    assert impatient.processes() == []
    controller.open()
    hurried = make_node(controller.url, "--grace", "600", name="node-b")
    since = controller.count
    serving(controller, since)
    hurried.process.ask_to_end()
    controller.wait_for(lambda one: one.leaving, "it leaves", since)
    hurried.process.ask_to_end()
    assert hurried.wait_ended() == 0
    assert hurried.processes() == []


def test_a_killed_node_manager_leaves_nothing(controller: ScriptedController, make_node: MakeNode) -> None:
    node = make_node(controller.url)
    controller.give()
    serving(controller)
    assert len(node.processes()) >= 2
    os.kill(node.process.pid, signal.SIGKILL)
    wait_until(lambda: not node.processes(), "an engine outlives the killed NodeManager")


def test_the_parents_end_is_its_end(controller: ScriptedController, make_node: MakeNode, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    script = tmp_path / "child.py"
    script.write_text("import runpy, sys\nsys.argv[0] = 'pymotor'\nrunpy.run_module('pymotor', run_name='__main__')\n")
    (tmp_path / "user_config.json").write_text(json.dumps(CONFIG))
    with subprocess.Popen(
        [
            sys.executable, str(script), "node-manager", "--config_dir", str(tmp_path), "--role", "union",
            "--node", "child", "--port", "none", "--controller", controller.url, "--log-dir", str(tmp_path / "logs"),
            "--grace", "600", "--parent-pipe", str(reader),
        ],
        env={**os.environ, TOKEN_VARIABLE: TOKEN},
        pass_fds=[reader],
    ) as child:  # fmt: skip
        os.close(reader)
        controller.give()
        serving(controller)
        os.close(writer)
        assert child.wait(60) == 0


def test_a_frozen_engine_is_unhealthy_until_it_goes_on(controller: ScriptedController, make_node: MakeNode) -> None:
    node = make_node(controller.url)
    controller.give()
    serving(controller)
    engine, since = node.engine(), controller.count
    engine.suspend()
    ill = controller.wait_for(lambda one: states(one) == [UNHEALTHY], "the engine is unhealthy", since)
    assert "/health does not answer" in ill.servers[0].detail
    assert ill.share is not None
    assert ill.share.state is InstanceState.INACTIVE
    since = controller.count
    engine.resume()
    serving(controller, since)
    assert node.engine().pid == engine.pid


def test_without_a_controller_engines_go_on(controller: ScriptedController, make_node: MakeNode) -> None:
    node = make_node(controller.url)
    controller.give()
    url = serving(controller).share.endpoints[0].url  # type: ignore[union-attr]
    engine = node.engine()
    controller.close()
    wait_until(lambda: "does not answer" in node.log.read_text(), "the Controller's absence is noticed")
    assert plain_http.get(f"{url}/health").status_code == 200
    since = controller.count
    controller.open()
    back = serving(controller, since)
    assert back.sequence > max(one.sequence for one in controller.reports[:since])
    assert node.engine().pid == engine.pid


def test_the_leader_is_looked_for(controller: ScriptedController, make_node: MakeNode) -> None:
    with ScriptedController() as leader:
        refusal = ControllerRefusal(error="I stand by", leader=leader.url)
        controller.refusal = 503, refusal
        make_node(controller.url)
        leader.give()
        serving(leader)
        leader.close()
        controller.refusal = None
        controller.epoch = 2
        controller.order = leader.order
        controller.give()
        controller.wait_for(lambda one: one.held == controller.order, "the new leader is followed")


def test_what_cannot_be_planned_is_told_and_not_tried_again(
    controller: ScriptedController, make_node: MakeNode
) -> None:
    node = make_node(controller.url)
    order = controller.give("prefill-0")
    told = controller.wait_for(lambda one: one.problem, "the problem is told")
    assert told.held == order
    assert "no motor_engine_prefill_config" in told.problem
    assert told.servers == ()
    since = controller.count
    controller.give("union-0")
    assert serving(controller, since).problem == ""
    assert node.log.read_text().count("cannot be followed") == 1


def test_an_engine_that_cannot_start_is_tried_again_and_told(
    controller: ScriptedController, make_node: MakeNode
) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["motor_engine_union_config"]["engine_config"]["max_num_seqs"] = "many"
    node = make_node(controller.url, config=config)
    controller.give()
    gone = controller.wait_for(lambda one: states(one) == [GONE], "it is gone")
    assert "before it was ready" in gone.servers[0].detail
    controller.wait_for(lambda one: one.servers and one.servers[0].restarts >= 1, "it is tried again")
    assert node.process.alive


def test_two_nodes_form_an_instance_and_a_lost_rank_waits_for_the_next_generation(
    make_node: MakeNode, tmp_path: Path
) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["motor_deploy_config"]["single_hybrid_instance_pod_num"] = 2
    config["motor_engine_union_config"]["engine_config"]["data_parallel_size"] = 2
    with ScriptedController() as one, ScriptedController() as other:
        first = make_node(one.url, config=config)
        make_node(other.url, name="node-b", config=config)
        one.give(nodes=2)
        held = one.wait_for(lambda report: report.held is not None, "the first order")
        assert (held.servers, held.nodes_per_instance) == ((), 2)
        one.give(nodes=2, master_address="127.0.0.1")
        other.give(nodes=2, master_address="127.0.0.1", node_rank=1)
        endpoints = [serving(each).share.endpoints for each in (one, other)]  # type: ignore[union-attr]
        assert [[(end.id, end.data_parallel_rank) for end in each] for each in endpoints] == [
            [("union-0/0", 0)],
            [("union-0/1", 1)],
        ]
        since = one.count
        first.engine().kill()
        one.wait_for(lambda report: states(report) == [GONE], "the rank is gone", since)
        one.give(nodes=2, master_address="127.0.0.1", generation=2)
        again = one.wait_for(
            lambda report: report.started_generation == 2 and all_ready(report), "generation 2 is ready", since
        )
        assert again.servers[0].restarts == 0
        assert all(
            states(report) == [GONE]
            for report in one.reports[since:]
            if report.started_generation == 1
            and report.sequence > max(seen.sequence for seen in one.reports[since:] if states(seen) == [GONE])
        )


def test_a_headless_node_is_ready_without_an_endpoint(controller: ScriptedController, make_node: MakeNode) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["motor_deploy_config"]["single_hybrid_instance_pod_num"] = 2
    config["motor_engine_union_config"]["engine_config"]["tensor_parallel_size"] = 2
    node = make_node(controller.url, config=config)
    controller.give(nodes=2, master_address="127.0.0.1", node_rank=1)
    report = serving(controller)
    assert [(server.name, server.endpoint_id) for server in report.servers] == [("union-0-node-1", "")]
    assert report.share is not None
    assert (report.share.endpoints, report.share.state) == ((), InstanceState.ACTIVE)
    since = controller.count
    node.engine().kill()
    controller.wait_for(lambda one: states(one) == [GONE], "the headless server is gone", since)


def test_a_refused_token_stops_nothing(make_node: MakeNode) -> None:
    with ScriptedController("another-token-0123456789") as stranger:
        node = make_node(stranger.url)
        wait_until(lambda: "refuses the report (401)" in node.log.read_text(), "the refusal is logged")
        assert node.process.alive
        assert stranger.reports == []


def test_a_cluster_token_is_needed_for_controllers_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "user_config.json").write_text(json.dumps(CONFIG))
    process = PymotorProcess(
        ["node-manager", "--config_dir", str(tmp_path), "--role", "union", "--controller", "http://controller:1026"],
        tmp_path / "log",
        {TOKEN_VARIABLE: "", f"{TOKEN_VARIABLE}_FILE": ""},
    )
    assert process._process.wait(60) == 1
    assert f"set {TOKEN_VARIABLE}" in process.tail()
