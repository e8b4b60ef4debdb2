"""Circuits of endpoints that fail: when they open, who is let through, what closes them."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.recovery.circuits import Circuits
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import Endpoint, EndpointState, Instance, InstanceState, Role

NOBODY: frozenset[str] = frozenset()


def an_instance(number: int, state: EndpointState = EndpointState.READY) -> Instance:
    """One with one endpoint."""
    endpoint = Endpoint(id=f"decode-{number}/0", url=f"http://127.0.0.1:{9000 + number}", state=state)
    return Instance(
        name=f"decode-{number}", role=Role.DECODE, models=("m",), engine="sim", state=InstanceState.ACTIVE,
        endpoints=(endpoint,),
    )  # fmt: skip


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Of one worker."""
    descriptor = Ledger.allocate(columns=1, rows=4)
    yield Ledger(descriptor, columns=1, rows=4, column=0)
    os.close(descriptor)


class Setup:
    """Three endpoints, and circuits that open after three failures for 1, 2, 4, 8 seconds."""

    def __init__(self, ledger: Ledger) -> None:
        self.states: Counter[tuple[str, str]] = Counter()
        self.circuits = Circuits(3, 1.0, 8.0, changed=self.note, chance=random.Random(5))
        shared = SharedState()
        self.targets = [Target(an_instance(n).endpoints[0], an_instance(n), ledger, n, 1, shared) for n in range(3)]
        self.group = Group(self.targets)
        self.policy = LoadBalance(ledger)

    def note(self, endpoint: str, former: str, state: str) -> None:
        """As the metrics do."""
        self.states[endpoint, former] -= 1
        self.states[endpoint, state] += 1

    def chosen(self, now: float, avoid: frozenset[str] = NOBODY, count: int = 12) -> Counter[str]:
        """Who gets so many legs."""
        return Counter(self.circuits.choose(self.policy, self.group, avoid, now).endpoint_id for _ in range(count))

    def fail(self, index: int, now: float, times: int = 3) -> None:
        """So many failures in a row."""
        for _ in range(times):
            self.circuits.failed(self.targets[index], now)


@pytest.fixture
def setup(ledger: Ledger) -> Setup:
    """See `Setup`."""
    return Setup(ledger)


def test_failures_in_a_row_open_a_circuit(setup: Setup) -> None:
    setup.fail(0, 10.0, times=2)
    assert not setup.circuits.tripped
    setup.fail(0, 10.0, times=1)
    assert list(setup.circuits.tripped) == ["decode-0/0"]
    assert set(setup.chosen(10.1)) == {"decode-1/0", "decode-2/0"}


def test_a_success_in_between_starts_anew(setup: Setup) -> None:
    for _ in range(5):
        setup.fail(0, 10.0, times=2)
        setup.circuits.succeeded(setup.targets[0])
    assert not setup.circuits.tripped
    assert not setup.circuits.watched


def test_one_probe_after_the_pause(setup: Setup) -> None:
    setup.fail(0, 10.0)
    assert setup.chosen(11.5)["decode-0/0"] == 1
    assert setup.chosen(12.0)["decode-0/0"] == 0, "the probe is not back"
    setup.circuits.answering(setup.targets[0])
    assert setup.chosen(12.0)["decode-0/0"] == 4


def test_a_probe_that_fails_opens_again_for_longer(setup: Setup) -> None:
    setup.fail(0, 0.0)
    now, pauses = 0.0, []
    for _ in range(6):
        began = now
        while not setup.chosen(now, count=3)["decode-0/0"]:
            now += 0.05
        pauses.append(now - began)
        setup.fail(0, now, times=1)
    assert all(0.45 <= pause / limit <= 1.05 for pause, limit in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True)), pauses


def test_a_probe_never_heard_of_is_given_up(setup: Setup) -> None:
    setup.fail(0, 10.0)
    assert setup.chosen(11.5)["decode-0/0"] == 1
    assert setup.chosen(22.0)["decode-0/0"] == 1


def test_when_all_are_open_circuits_are_ignored(setup: Setup) -> None:
    for index in range(3):
        setup.fail(index, 10.0)
    assert len(setup.chosen(10.1)) == 3
    assert set(setup.chosen(10.1, frozenset(("decode-1/0",)))) == {"decode-0/0"}, "equally loaded: the first"
    assert sum(setup.chosen(10.1, frozenset(target.endpoint_id for target in setup.targets)).values()) == 12


def test_one_with_an_open_circuit_before_one_that_failed_this_request(setup: Setup) -> None:
    setup.fail(0, 10.0)
    assert set(setup.chosen(10.1, frozenset(("decode-1/0", "decode-2/0")))) == {"decode-0/0"}


def test_a_started_again_endpoint_is_not_held_responsible(setup: Setup) -> None:
    by_id = {target.endpoint_id: target for target in setup.targets}
    setup.fail(0, 10.0)
    setup.circuits.fleet_changed([an_instance(n) for n in range(3)], by_id)
    assert setup.circuits.tripped, "nothing has changed about it"
    gone = an_instance(0, EndpointState.UNHEALTHY)
    setup.circuits.fleet_changed([gone, an_instance(1), an_instance(2)], by_id)
    assert setup.circuits.tripped
    setup.circuits.fleet_changed([an_instance(n) for n in range(3)], by_id)
    assert not setup.circuits.watched
    assert not setup.circuits.tripped


def test_another_endpoint_of_the_same_name(setup: Setup, ledger: Ledger) -> None:
    setup.fail(0, 10.0)
    other = Target(an_instance(0).endpoints[0], an_instance(0), ledger, 3, 1, SharedState())
    setup.circuits.fleet_changed([an_instance(0)], {"decode-0/0": other})
    assert not setup.circuits.tripped
    setup.fail(0, 10.0, times=1)
    setup.circuits.failed(other, 10.0)
    setup.circuits.answering(setup.targets[0])
    setup.circuits.succeeded(setup.targets[0])
    assert setup.circuits.watched["decode-0/0"].failures == 1


def test_circuits_that_never_open(ledger: Ledger) -> None:
    setup = Setup(ledger)
    setup.circuits = Circuits(0, 1.0, 8.0)
    setup.fail(0, 10.0, times=50)
    assert not setup.circuits.watched


def test_the_states_told_add_up(setup: Setup) -> None:
    """An endpoint is in one state at a time, whatever happens."""
    chance = random.Random(7)
    by_id = {target.endpoint_id: target for target in setup.targets}
    now = 0.0
    for _ in range(3000):
        now += chance.random()
        target = chance.choice(setup.targets)
        what = chance.randrange(5)
        if what <= 1:
            setup.circuits.failed(target, now)
        elif what == 2 and setup.circuits.watched:
            setup.circuits.succeeded(target)
        elif what == 3:
            setup.chosen(now, count=2)
        elif chance.random() < 0.1:
            setup.circuits.fleet_changed([], by_id)
            setup.circuits.fleet_changed([an_instance(n) for n in range(3)], by_id)
        for endpoint in by_id:
            told = {state for (name, state), count in setup.states.items() if name == endpoint and state and count}
            known = setup.circuits.watched.get(endpoint)
            assert told == ({known.state} if known else set())
            assert (endpoint in setup.circuits.tripped) == bool(known and known.state != "closed")


def test_new_limits_hold_for_the_next_failures(setup: Setup) -> None:
    setup.circuits.use(1, 4.0, 8.0)
    setup.fail(0, 10.0, times=1)
    assert list(setup.circuits.tripped) == ["decode-0/0"]
    assert "decode-0/0" in setup.circuits.barred(11.9), "half of the pause at least"
    setup.circuits.use(0, 4.0, 8.0)
    setup.fail(1, 10.0)
    assert list(setup.circuits.tripped) == ["decode-0/0"], "what is open stays so"
