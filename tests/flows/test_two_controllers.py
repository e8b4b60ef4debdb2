"""Two Controllers, of which one leads: it is paused, killed or cut off under load, and nothing it says later counts."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import plain_http
import pytest
from cluster import TOKEN, Cluster
from cluster_load import Load, known_answers
from processes import wait_until
from test_fleet_heals import CONFIG, RATE, Trials, times

from pymotor.fleet import FleetWatch, NodeReport, Role, encode_message


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two of prefill and decode, two Controllers with one lease, one Coordinator."""
    roles = {Role.PREFILL: 2, Role.DECODE: 2}
    with Cluster(tmp_path_factory.mktemp("two"), roles, controllers=2, coordinator_config=CONFIG) as running:
        yield running
    assert not running.leftovers()


class Epochs:
    """The epochs that the Coordinator went by, looked at again and again in a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: list[int] = []

    def __enter__(self) -> Epochs:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            epoch = self._cluster.fleet()["epoch"]
            if epoch is not None and (not self.seen or self.seen[-1] != epoch):
                self.seen.append(epoch)


def _epoch(cluster: Cluster) -> int:
    epoch: int = cluster.controller_fleet()["epoch"]
    return epoch


def _leads(cluster: Cluster, former: int, epoch: int) -> bool:
    """Whether another Controller leads, knows everybody, and the Coordinator goes by it."""
    for number in range(2):
        try:
            fleet = cluster.controller_fleet(number)
        except LookupError:
            continue
        if number != former and fleet["epoch"] > epoch and fleet["complete"]:
            return bool(cluster.fleet()["epoch"] == fleet["epoch"])
    return False


def _says_nothing(url: str) -> bool:
    """Whether this Controller refuses Coordinators and nodes."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    watch = encode_message(FleetWatch(coordinator="somebody"))
    report = encode_message(
        NodeReport(node="n", incarnation="i", sequence=1, job="j", role=Role.UNION, address="127.0.0.1")
    )
    try:
        replies = [
            plain_http.post(f"{url}/{path}", content=body, headers=headers, timeout=5)
            for path, body in (("fleet/watch", watch), ("nodes/report", report))
        ]
    except httpx.HTTPError:
        return False
    return all(reply.status_code == 503 for reply in replies)


@times(3)
def test_a_paused_leader_is_followed_and_not_heard(cluster: Cluster, number: int) -> None:
    seed = int(os.environ.get("PYMOTOR_CHAOS_SEED", random.randrange(2**32)))
    chance = random.Random(seed)
    cluster.wait_whole()
    wait_until(lambda: _leader_is_complete(cluster), "a leader knows everybody", 60)
    known = known_answers(cluster.urls[0], 40, random.Random(1))
    with Epochs(cluster) as epochs, Load(cluster.urls, known, RATE, chance) as sendings:
        trials = Trials(cluster, chance, sendings)
        for _ in range(number):
            leader, epoch = cluster.leader(), _epoch(cluster)
            paused = cluster.controllers[leader]

            def mend(leader: int = leader, epoch: int = epoch) -> None:
                wait_until(lambda: _leads(cluster, leader, epoch), "the other Controller leads", 60)
                cluster.controllers[leader].signal(signal.SIGCONT)
                wait_until(lambda: _says_nothing(cluster.controller_urls[leader]), "the former leader refuses", 60)

            trials.strike(paused.name, lambda paused=paused: paused.signal(signal.SIGSTOP), mend)  # type: ignore[misc]
        trials.report("leader paused")
    assert epochs.seen == sorted(epochs.seen), f"the Coordinator followed an older leader: {epochs.seen}"


@times(2)
def test_a_killed_leader_is_followed(cluster: Cluster, number: int) -> None:
    chance = random.Random(number)
    cluster.wait_whole()
    wait_until(lambda: _leader_is_complete(cluster), "a leader knows everybody", 60)
    known = known_answers(cluster.urls[0], 40, random.Random(1))
    with Epochs(cluster) as epochs, Load(cluster.urls, known, RATE, chance) as sendings:
        trials = Trials(cluster, chance, sendings)
        for _ in range(number):
            leader, epoch = cluster.leader(), _epoch(cluster)
            killed = cluster.controllers[leader]

            def mend(epoch: int = epoch) -> None:
                wait_until(lambda: _leads(cluster, -1, epoch), "a Controller leads", 60)

            trials.strike(killed.name, lambda killed=killed: killed.signal(signal.SIGKILL), mend)  # type: ignore[misc]
        trials.report("leader killed")
    assert epochs.seen == sorted(epochs.seen)


def test_an_engine_lost_while_nobody_leads(cluster: Cluster, tmp_path: Path) -> None:
    """The Coordinator avoids it by itself; the next leader learns of it from the node's report."""
    cluster.wait_whole()
    wait_until(lambda: _leader_is_complete(cluster), "a leader knows everybody", 60)
    known = known_answers(cluster.urls[0], 40, random.Random(1))
    with Load(cluster.urls, known, RATE, random.Random(3)) as sendings:
        epoch, lost = _epoch(cluster), cluster.engine_pid("decode-0")
        for controller in cluster.controllers:
            controller.signal(signal.SIGKILL)
        os.kill(lost, signal.SIGKILL)
        began = time.monotonic()

        def leads() -> bool:
            cluster.revive()
            return _leads(cluster, -1, epoch)

        wait_until(leads, "a Controller leads", 60)
        cluster.wait_whole()
        assert cluster.engine_pid("decode-0") != lost
    assert not sendings.lost(began), sendings.outcomes


def _leader_is_complete(cluster: Cluster) -> bool:
    try:
        return bool(cluster.controller_fleet()["complete"])
    except LookupError:
        return False
