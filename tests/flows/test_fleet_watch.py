"""Coordinators that a Controller tells of the fleet: what they follow, what they refuse, and how instances drain."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway, Role
from images import text_chat
from processes import wait_until
from raw_client import RawConnection, post
from scripted_controller import ScriptedController

from pymotor.control_plane import TOKEN_VARIABLE
from pymotor.fleet import FleetWatch, Instance, InstanceState

TOKEN = "a-token-for-these-tests"
DRAINING = {"state": InstanceState.DRAINING}
Watching = Callable[..., Gateway]


@pytest.fixture(scope="module")
def unions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two union engines whose steps take a twentieth of a second, so that a stream can be met while it runs."""
    directory = tmp_path_factory.mktemp("unions")
    profile = directory / "profile.json"
    profile.write_text(json.dumps({"step_base_us": 50_000}))
    flags = ["--sim-speed", "1", "--sim-profile", str(profile)]
    with Engines(directory, {Role.UNION: 2}, flags=flags, plain=False) as running:
        yield running


@pytest.fixture
def controller() -> Iterator[ScriptedController]:
    with ScriptedController(token=TOKEN) as running:
        yield running


@pytest.fixture
def watching(unions: Engines) -> Iterator[Watching]:
    """Start Coordinators that watch these Controllers and end with the test."""
    with ExitStack() as opened:

        def start(*controllers: ScriptedController, workers: int = 2, token: str = TOKEN, **options: Any) -> Gateway:
            return opened.enter_context(
                Gateway(
                    unions,
                    workers=workers,
                    label="watching",
                    controllers=[controller.url for controller in controllers],
                    environment={TOKEN_VARIABLE: token},
                    **options,
                )
            )

        yield start


def one(engines: Engines, **changes: object) -> Instance:
    return engines["union-0"].instance(**changes)


def other(engines: Engines, **changes: object) -> Instance:
    return engines["union-1"].instance(**changes)


def told(version: int, epoch: int = 1) -> Callable[[FleetWatch], bool]:
    """Whether a question says that the workers route by this snapshot."""
    return lambda watch: (watch.epoch, watch.version) == (epoch, version)


def names(gateway: Gateway) -> list[str]:
    return [instance["name"] for instance in gateway.fleet()["instances"]]


def served_by(gateway: Gateway) -> str:
    """Who answers a short request."""
    answer = ask_one(gateway.url, text_chat("Who is it?", max_tokens=1))
    assert answer.status == 200
    ((_, instance),) = answer.legs
    return instance


def begin_stream(gateway: Gateway, clients: ExitStack, tokens: int) -> RawConnection:
    """A stream of so many tokens whose first content has come."""
    connection = clients.enter_context(RawConnection(gateway.port))
    connection.send(post(json.dumps(text_chat("On", stream=True, max_tokens=tokens, ignore_eos=True)).encode()))
    connection.read_until(b"data: ")
    return connection


def test_it_is_ready_with_the_first_snapshot_and_follows_each_change(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    controller.stop()
    gateway = watching(controller)
    assert gateway.fleet()["fleet_source"]["last_heard_seconds"] is None
    controller.start()
    controller.wait_asked(told(-1, -1), "a first question")
    assert not gateway.is_ready(), "before the first snapshot nobody can be served"
    assert gateway.fleet()["fleet_source"]["url"] == controller.url

    controller.wait_asked(told(controller.tell(one(unions))), "the first snapshot is told")
    assert gateway.is_ready()
    assert gateway.fleet()["fleet_source"]["connected"]
    assert served_by(gateway) == "union-0"
    controller.wait_asked(told(controller.tell(other(unions))), "the second one is told")
    assert (names(gateway), served_by(gateway)) == (["union-1"], "union-1")
    assert len(controller.coordinators) == 1
    assert TOKEN not in gateway.log()


def test_without_a_controller_the_last_fleet_stands(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller)
    controller.wait_asked(told(controller.tell(one(unions))), "the snapshot is told")
    controller.stop()
    wait_until(lambda: not gateway.fleet()["fleet_source"]["connected"], "its absence is noticed")
    lost = gateway.fleet()["fleet_source"]
    assert lost["last_heard_seconds"] is not None
    assert gateway.is_ready()
    assert served_by(gateway) == "union-0"
    version = controller.tell(one(unions), other(unions))
    controller.start()
    controller.wait_asked(told(version), "what happened meanwhile is told")
    assert gateway.fleet()["fleet_source"]["connected"]
    log = gateway.log()
    lost_for = [line.partition("no Controller tells of the fleet")[2] for line in log.splitlines()]
    reasons = [reason for reason in lost_for if reason]
    # The question under way may break in another way than those after it fail.
    assert len(reasons) == len(set(reasons)) in (1, 2), "once for each reason, however often it was tried"
    assert log.count("tells of the fleet") == 2 + len(reasons), "first heard, lost, heard again"


def test_a_leader_of_an_older_epoch_is_left_for_the_next_controller(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    with ScriptedController(epoch=4, token=TOKEN) as former:
        gateway = watching(former, controller)
        former.wait_asked(told(former.tell(other(unions)), 4), "the first leader is followed")
        controller.tell(one(unions), epoch=5)
        former.refuse()
        controller.wait_asked(told(1, 5), "the new leader is followed")

        former.tell(other(unions))
        former.insist()
        asked = len(former.asked)
        controller.refuse()
        former.wait_count(3)
        assert gateway.fleet()["epoch"] == 5
        assert names(gateway) == ["union-0"]
        assert former.asked[asked].watch.epoch == 5
        wait_until(lambda: "it leads no more" in gateway.log(), "it is told")

        version = controller.tell(one(unions), other(unions))
        controller.wait_asked(told(version, 5), "the leader is found again")
        assert names(gateway) == ["union-0", "union-1"]
        assert gateway.log().count("no Controller tells of the fleet") == 1


def test_the_leader_that_is_named_is_asked_next(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    with ScriptedController(token=TOKEN) as standby, ScriptedController(token=TOKEN) as passed_over:
        standby.refuse(leader=controller.url + "/")
        version = controller.tell(one(unions))
        watching(standby, passed_over, controller)
        controller.wait_asked(told(version), "the leader tells")
        assert not passed_over.asked

        # One that is not of the list is nobody who would be shown the token.
        passed_over.tell(one(unions), other(unions), epoch=2)
        controller.refuse(leader="http://127.0.0.1:9")
        passed_over.wait_asked(told(1, 2), "the next of the list tells")


def test_an_incomplete_snapshot_removes_nobody(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller, workers=1)
    controller.wait_asked(told(controller.tell(one(unions), other(unions))), "both are told")
    changed = other(unions, state=InstanceState.INACTIVE, fault="cordoned")
    controller.wait_asked(told(controller.tell(changed, complete=False)), "half of the fleet is told")
    states = {instance["name"]: instance["state"] for instance in gateway.fleet()["instances"]}
    assert states == {"union-0": "active", "union-1": "inactive"}
    assert served_by(gateway) == "union-0"
    controller.wait_asked(told(controller.tell(changed)), "all of it is told")
    assert names(gateway) == ["union-1"]
    assert not gateway.is_ready()


def test_a_draining_instance_finishes_what_it_has_and_gets_nothing_new(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller)
    controller.wait_asked(told(controller.tell(one(unions))), "the one engine is told")
    with ExitStack() as clients:
        stream = begin_stream(gateway, clients, tokens=120)
        version = controller.tell(one(unions, **DRAINING), other(unions))
        first = controller.wait_asked(told(version), "the drain is known to the workers")
        assert first.in_flight == {"union-0/0": 1}
        assert first.wait_seconds <= 0.5, "it is asked again soon"
        for _ in range(4):
            assert served_by(gateway) == "union-1"
        over = stream.reply()
        assert over.body.count(b"data: ") >= 120
        assert over.body.endswith(b"data: [DONE]\n\n")
        controller.wait_asked(lambda watch: told(version)(watch) and not watch.in_flight, "it is drained")
    gateway.wait_until_idle()
    # One after the other: what is not draining is nobody's business.
    assert all(set(asked.watch.in_flight) <= {"union-0/0"} for asked in controller.asked)


def test_a_client_that_leaves_a_draining_instance_lets_it_go(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller)
    controller.wait_asked(told(controller.tell(one(unions))), "the one engine is told")
    with ExitStack() as clients:
        begin_stream(gateway, clients, tokens=20_000)
        begin_stream(gateway, clients, tokens=20_000)
        version = controller.tell(one(unions, **DRAINING))
        controller.wait_asked(lambda watch: watch.in_flight == {"union-0/0": 2}, "both streams count")
        assert not gateway.is_ready()
    controller.wait_asked(lambda watch: told(version)(watch) and not watch.in_flight, "it is drained")


def test_a_snapshot_counts_when_every_worker_routes_by_it(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller)
    before = controller.tell(one(unions))
    controller.wait_asked(told(before), "the first snapshot is told")
    slow, *_ = psutil.Process(gateway.process.pid).children()
    os.kill(slow.pid, signal.SIGSTOP)
    try:
        asked = len(controller.asked)
        version = controller.tell(one(unions, **DRAINING))
        gateway.wait_version(version)
        controller.wait_count(2)
        assert all(told(before)(question.watch) for question in controller.asked[asked:]), "one worker may not know it"
        assert not any(question.watch.in_flight for question in controller.asked[asked:])
    finally:
        os.kill(slow.pid, signal.SIGCONT)
    controller.wait_asked(told(version), "now all know it")


def test_a_worker_that_died_holds_nothing_up(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller)
    controller.wait_asked(told(controller.tell(one(unions))), "the first snapshot is told")
    doomed, *_ = psutil.Process(gateway.process.pid).children()
    os.kill(doomed.pid, signal.SIGSTOP)
    version = controller.tell(one(unions, **DRAINING))
    gateway.wait_version(version)
    os.kill(doomed.pid, signal.SIGKILL)
    controller.wait_asked(told(version), "the one that is left knows it, and its successor knows nothing older")


@pytest.mark.parametrize("token", ["another-token-than-theirs", ""])
def test_a_wrong_token_is_said_plainly(
    unions: Engines, controller: ScriptedController, watching: Watching, token: str
) -> None:
    controller.tell(one(unions))
    gateway = watching(controller, workers=1, token=token)
    wait_until(lambda: TOKEN_VARIABLE in gateway.log(), "the log says what to set")
    wait_until(lambda: controller.refused_tokens > 2, "it tries again")
    assert gateway.log().count(TOKEN_VARIABLE + " or") == 1
    assert not gateway.is_ready()
    assert not controller.asked
    assert not token or token not in gateway.log()


def test_two_coordinators_each_say_what_they_have(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    busy, idle = watching(controller, workers=1), watching(controller)
    version = controller.tell(one(unions), other(unions))
    for gateway in (busy, idle):
        gateway.wait_version(version)
    with ExitStack() as clients:
        for _ in range(2):
            begin_stream(busy, clients, tokens=20_000)
        version = controller.tell(one(unions, **DRAINING), other(unions))
        watch = controller.wait_asked(
            lambda watch: told(version)(watch) and bool(watch.in_flight), "one has a leg at what is draining"
        )
        assert watch.in_flight == {"union-0/0": 1}
        waiting = watch.coordinator
        free = controller.wait_asked(
            lambda watch: told(version)(watch) and watch.coordinator != waiting, "the other one has the snapshot too"
        )
        assert not free.in_flight
        for gateway in (busy, idle):
            assert served_by(gateway) == "union-1"
    controller.wait_asked(
        lambda watch: told(version)(watch) and watch.coordinator == waiting and not watch.in_flight, "both are through"
    )
    assert len(controller.coordinators) == 2


def test_a_request_in_the_line_does_not_run_at_what_is_draining(
    unions: Engines, controller: ScriptedController, watching: Watching
) -> None:
    gateway = watching(controller, workers=1, config={"request_limit": {"max_running": {"union": 1}}})
    controller.wait_asked(told(controller.tell(one(unions), other(unions))), "both are told")
    with ThreadPoolExecutor(1) as asking, ExitStack() as first, ExitStack() as second:
        begin_stream(gateway, first, tokens=20_000)
        at = next(endpoint for endpoint, (_, number) in gateway.loads().items() if number)
        begin_stream(gateway, second, tokens=20_000)
        waiting = asking.submit(served_by, gateway)
        wait_until(lambda: gateway.count("pymotor_queue_length") == 1, "the third waits")
        states = [
            engine(unions, **(DRAINING if at == f"union-{number}/0" else {}))
            for number, engine in enumerate((one, other))
        ]
        version = controller.tell(*states)
        controller.wait_asked(told(version), "one of them drains")
        first.close()
        controller.wait_asked(lambda watch: told(version)(watch) and not watch.in_flight, "it is drained")
        second.close()
        assert f"{waiting.result(60)}/0" != at


def test_prefill_is_held_until_decode_has_what_it_writes(tmp_path: Path, controller: ScriptedController) -> None:
    roles = {Role.PREFILL: 1, Role.DECODE: 1}
    with ExitStack() as opened:
        engines = opened.enter_context(Engines(tmp_path, roles, kv_connector="MooncakeLayerwiseConnector", plain=False))
        gateway = opened.enter_context(
            Gateway(engines, controllers=[controller.url], environment={TOKEN_VARIABLE: TOKEN})
        )
        engines["prefill-0"].fail("kv_push_lost")
        decode = engines["decode-0"].instance()
        controller.wait_asked(told(controller.tell(engines["prefill-0"].instance(), decode)), "the pair is told")
        with RawConnection(gateway.port) as client:
            client.send(post(json.dumps(text_chat("Now", stream=True)).encode()))
            wait_until(lambda: gateway.loads()["decode-0/0"][1], "decode waits")
            wait_until(lambda: not gateway.loads()["prefill-0/0"][1], "prefill's leg is over")
            version = controller.tell(engines["prefill-0"].instance(**DRAINING), decode)
            controller.wait_asked(lambda watch: watch.in_flight == {"prefill-0/0": 1}, "it is needed still")
        controller.wait_asked(lambda watch: told(version)(watch) and not watch.in_flight, "nobody fetches any more")
