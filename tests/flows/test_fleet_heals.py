"""Every part of a cluster killed, stopped and cut off, at random moments under load: nothing is lost, all comes back.

A trial strikes one part and waits until the cluster is whole again; each case has several. What is asserted is what
happens, never how long it takes; the times are reported in build/ (and from there in benchmarks/results).
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from cluster import Cluster, Part
from cluster_load import Load, Sendings, Sent, known_answers
from processes import wait_until

from pymotor.fleet import Role

RATE = 20.0
"""Requests a second, over all Coordinators."""
FEW, MANY = 5, 20
"""Trials in `make test`, where a trial takes seconds, and in `make soak`."""
ROLES = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2}
CONFIG = {
    "exception_config": {
        "retry_delay": 0.02,
        "first_token_timeout": 5,
        "output_token_timeout": 0.1,
        "infer_timeout": 45,
    },
    "http_config": {"stream_idle_timeout": 4},
}
REPORTS = Path(__file__).parents[2] / "build" / "fleet-chaos"
Excuse = Callable[[Sent], bool]


@dataclass
class Trial:
    """One strike."""

    struck: str
    avoided_seconds: float | None
    """Until no new request went to it; None where it takes none, or goes on serving."""
    whole_seconds: float
    """Until everything was as before."""
    lost: list[str]


class Trials:
    """A cluster under load that is struck again and again."""

    def __init__(self, cluster: Cluster, chance: random.Random, sendings: Sendings) -> None:
        self.cluster = cluster
        self.chance = chance
        self.sendings = sendings
        self.trials: list[Trial] = []

    def instance(self) -> str:
        """Any instance."""
        return self.chance.choice(sorted(self.cluster.states()))

    def strike(
        self,
        struck: str,
        blow: Callable[[], object],
        mend: Callable[[], object] = lambda: None,
        *,
        avoids: str = "",
        excuse: Excuse = lambda sent: False,
    ) -> None:
        """Strike at a random moment, wait until `avoids` (an instance) gets no requests, mend, wait for all."""
        time.sleep(self.chance.uniform(0.0, 0.5))  # the moment is what is random
        began = time.monotonic()
        blow()
        avoided = None
        if avoids:
            wait_until(lambda: self._avoids(avoids), f"nobody gives {avoids} requests any more", 90)
            avoided = time.monotonic() - began
        mend()
        self.cluster.wait_whole()
        whole = time.monotonic() - began
        lost = [one.outcome for one in self.sendings.lost(began) if not excuse(one)]
        self.trials.append(Trial(struck, avoided, whole, lost))

    def _avoids(self, instance: str) -> bool:
        self.cluster.revive()
        return all(
            self.cluster.states(number).get(instance, "active") != "active"
            for number in range(len(self.cluster.coordinators))
        )

    def report(self, case: str) -> None:
        """Write down what was seen, and assert that nothing was lost."""
        avoided = [trial.avoided_seconds for trial in self.trials if trial.avoided_seconds is not None]
        whole = [trial.whole_seconds for trial in self.trials]
        figures = {
            "case": case,
            "trials": len(self.trials),
            "avoided_seconds": _spread(avoided),
            "whole_seconds": _spread(whole),
            "lost": sum(len(trial.lost) for trial in self.trials),
            "requests": dict(self.sendings.outcomes),
            "each": [asdict(trial) for trial in self.trials],
        }
        REPORTS.mkdir(parents=True, exist_ok=True)
        (REPORTS / f"{case}-{len(self.trials)}.json").write_text(json.dumps(figures, indent=1))
        print(json.dumps({name: value for name, value in figures.items() if name != "each"}))
        assert not figures["lost"], [trial for trial in self.trials if trial.lost]


def _spread(values: list[float]) -> dict[str, float] | None:
    return {"median": round(statistics.median(values), 3), "worst": round(max(values), 3)} if values else None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two of each role, two Coordinators of two workers, one Controller."""
    directory = tmp_path_factory.mktemp("cluster")
    with Cluster(directory, ROLES, coordinators=2, workers=2, coordinator_config=CONFIG) as running:
        yield running
    assert not running.leftovers(), "processes outlive the cluster"


@pytest.fixture
def trials(cluster: Cluster) -> Iterator[Trials]:
    """The cluster, whole and under load."""
    seed = int(os.environ.get("PYMOTOR_CHAOS_SEED", random.randrange(2**32)))
    print(f"PYMOTOR_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    cluster.wait_whole()
    known = known_answers(cluster.urls[0], 60, random.Random(1))
    with ExitStack() as loaded:
        sendings = loaded.enter_context(Load(cluster.urls, known, RATE, chance))
        running = Trials(cluster, chance, sendings)
        yield running
        loaded.close()
    # Also those that ended after the last trial.
    assert not [one for one in running.sendings.sent if one.outcome in ("wrong", "without an end")]


def times(few: int = FEW, many: int = MANY) -> pytest.MarkDecorator:
    """Run a case `few` times in `make test` and `many` times in `make soak`."""
    runs = [pytest.param(many, marks=pytest.mark.soak, id=f"{many}-times")]
    return pytest.mark.parametrize("number", [pytest.param(few, id=f"{few}-times"), *runs] if few else runs)


def signalled(part: Part, number: int) -> Callable[[], None]:
    return lambda: part.signal(number)


@times()
def test_engines_killed(trials: Trials, number: int) -> None:
    for _ in range(number):
        name = trials.instance()
        pid = trials.cluster.engine_pid(name)
        trials.strike(name, lambda pid=pid: os.kill(pid, signal.SIGKILL), avoids=name)  # type: ignore[misc]
    trials.report("engine killed")


@times(1)
def test_engines_stopped(trials: Trials, number: int) -> None:
    for _ in range(number):
        name = trials.instance()
        pid = trials.cluster.engine_pid(name)
        trials.strike(
            name,
            lambda pid=pid: os.kill(pid, signal.SIGSTOP),  # type: ignore[misc]
            lambda pid=pid: os.kill(pid, signal.SIGCONT),  # type: ignore[misc]
            avoids=name,
        )
    trials.report("engine stopped")


@times()
def test_node_managers_killed(trials: Trials, number: int) -> None:
    for _ in range(number):
        name = trials.instance()
        trials.strike(name, signalled(trials.cluster.node_of(name), signal.SIGKILL), avoids=name)
    trials.report("node manager killed")


@times(1)
def test_node_managers_stopped(trials: Trials, number: int) -> None:
    for _ in range(number):
        name = trials.instance()
        part = trials.cluster.node_of(name)
        trials.strike(name, signalled(part, signal.SIGSTOP), signalled(part, signal.SIGCONT), avoids=name)
    trials.report("node manager stopped")


@times()
def test_the_controller_killed(trials: Trials, number: int) -> None:
    (controller,) = trials.cluster.controllers
    for _ in range(number):
        trials.strike("controller", signalled(controller, signal.SIGKILL), lambda: _leads_anew(trials.cluster))
    trials.report("controller killed")


@times(2)
def test_the_controller_stopped(trials: Trials, number: int) -> None:
    (controller,) = trials.cluster.controllers
    for _ in range(number):
        pause = trials.chance.uniform(1.0, 8.0)
        trials.strike(
            "controller",
            signalled(controller, signal.SIGSTOP),
            lambda pause=pause: _after(pause, controller.pid),  # type: ignore[misc]
        )
    trials.report("controller stopped")


@times()
def test_coordinator_workers_killed(trials: Trials, number: int) -> None:
    for _ in range(number):
        at = trials.chance.randrange(2)
        url = trials.cluster.urls[at]
        worker = trials.chance.choice(trials.cluster.worker_pids(at))
        trials.strike(
            f"worker of coordinator-{at}",
            lambda worker=worker: os.kill(worker, signal.SIGKILL),  # type: ignore[misc]
            lambda at=at: wait_until(lambda: _all_workers(trials.cluster, at), "the worker is back", 60),  # type: ignore[misc]
            excuse=lambda sent, url=url: sent.url == url and sent.outcome.startswith("connection"),  # type: ignore[misc]
        )
    trials.report("coordinator worker killed")


@times()
def test_coordinators_killed(trials: Trials, number: int) -> None:
    for _ in range(number):
        at = trials.chance.randrange(2)
        url = trials.cluster.urls[at]
        trials.strike(
            f"coordinator-{at}",
            signalled(trials.cluster.coordinators[at], signal.SIGKILL),
            excuse=lambda sent, url=url: sent.url == url,  # type: ignore[misc]
        )
    trials.report("coordinator killed")


@times(2)
def test_coordinator_workers_stopped(trials: Trials, number: int) -> None:
    """For a while: what waits at them is answered when they go on."""
    for _ in range(number):
        at = trials.chance.randrange(2)
        worker = trials.chance.choice(trials.cluster.worker_pids(at))
        pause = trials.chance.uniform(1.0, 5.0)
        trials.strike(
            f"worker of coordinator-{at}",
            lambda worker=worker: os.kill(worker, signal.SIGSTOP),  # type: ignore[misc]
            lambda worker=worker, pause=pause: _after(pause, worker),  # type: ignore[misc]
        )
    trials.report("coordinator worker stopped")


@times(2)
def test_coordinators_stopped(trials: Trials, number: int) -> None:
    """Supervisors: their workers go on answering."""
    for _ in range(number):
        part = trials.chance.choice(trials.cluster.coordinators)
        pause = trials.chance.uniform(1.0, 5.0)
        trials.strike(
            part.name,
            signalled(part, signal.SIGSTOP),
            lambda part=part, pause=pause: _after(pause, part.pid),  # type: ignore[misc]
        )
    trials.report("coordinator stopped")


@times(2)
def test_node_managers_cut_off(trials: Trials, number: int) -> None:
    """The engine serves on; it is avoided when the Controller has not heard of it for long, and comes back."""
    for _ in range(number):
        name = trials.instance()
        ways = trials.cluster.cut(trials.cluster.node_of(name).name)
        trials.strike(
            name,
            lambda ways=ways: [way.cut() for way in ways],  # type: ignore[misc]
            lambda ways=ways: [way.heal() for way in ways],  # type: ignore[misc]
            avoids=name,
        )
    trials.report("node manager cut off")


@times(2)
def test_coordinators_cut_off_while_an_engine_dies(trials: Trials, number: int) -> None:
    """What the Controller knows does not reach it; its own circuits do."""
    for _ in range(number):
        ways = trials.cluster.cut("coordinator-0") + trials.cluster.cut("coordinator-1")
        name = trials.instance()
        pid = trials.cluster.engine_pid(name)

        def blow(ways: list[object] = ways, pid: int = pid) -> None:  # type: ignore[assignment]
            for way in ways:
                way.cut()  # type: ignore[attr-defined]
            os.kill(pid, signal.SIGKILL)

        def mend(ways: list[object] = ways, name: str = name, pid: int = pid) -> None:  # type: ignore[assignment]
            wait_until(lambda: _restarted(trials.cluster, name, pid), f"{name} is back", 60)
            for way in ways:
                way.heal()  # type: ignore[attr-defined]

        trials.strike(name, blow, mend)
    trials.report("coordinators cut off")


def _restarted(cluster: Cluster, name: str, former: int) -> bool:
    try:
        return cluster.engine_pid(name) != former
    except (LookupError, AssertionError):
        return False


def _leads_anew(cluster: Cluster) -> None:
    def leads() -> bool:
        cluster.revive()
        try:
            return bool(cluster.controller_fleet()["complete"])
        except LookupError:
            return False

    wait_until(leads, "a Controller leads and knows everybody", 60)


def _after(seconds: float, process: int) -> None:
    time.sleep(seconds)  # how long it is stopped, not a wait for something
    os.kill(process, signal.SIGCONT)


def _all_workers(cluster: Cluster, coordinator: int) -> bool:
    report = cluster.fleet(coordinator)
    return bool(report["workers"] == report["workers_listening"])
