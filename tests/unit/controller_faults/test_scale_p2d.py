"""Prefill gives nodes to decode when decode is lost, and gets them back."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from faulty_fleets import SWITCHED_OFF, a_fault, a_fleet, a_node, an_instance
from hypothesis import given, settings
from hypothesis import strategies as st

from pymotor.controller.faults.decisions import ChangeRoles
from pymotor.controller.faults.policies import decide, remember
from pymotor.controller.faults.scale_p2d import scale_p2d
from pymotor.controller.faults.view import FleetView, InstanceView, Lost, Memory, Switches
from pymotor.fleet import InstanceState, Role

EITHER = {"roles": (Role.PREFILL, Role.DECODE)}
IN_A_CLUSTER = Switches(scale_p2d_release=True)
WANTED = {Role.PREFILL: 3, Role.DECODE: 2}


def lost(name: str, since: float = 0.0, nodes: int = 1) -> InstanceView:
    return an_instance(name, InstanceState.INACTIVE, nodes=nodes, node={"silent": True}, since=since)


def known(*names: str, nodes: int = 1) -> Memory:
    """Those served, and are out since the clock began."""
    return Memory(
        served=dict.fromkeys(names, nodes), lost=tuple(Lost(name=name, nodes=nodes, since=0.0) for name in names)
    )


def prefills(count: int, *, nodes: int = 1, node: object = EITHER) -> tuple[InstanceView, ...]:
    return tuple(an_instance(f"prefill-{number}", nodes=nodes, node=node, load=float(count)) for number in range(count))


def one_lost(*prefill: InstanceView, nodes: int = 1, now: float = 1000.0, **more: object) -> FleetView:
    more.setdefault("targets", WANTED)
    decodes = (an_instance("decode-0", nodes=nodes), lost("decode-1", nodes=nodes))
    return a_fleet(*prefill, *decodes, now=now, **more)


def test_the_newest_of_the_least_loaded_takes_decode_over():
    busy = an_instance("prefill-9", node=EITHER, load=30.0)
    (change,) = scale_p2d(one_lost(*prefills(3), busy), known("decode-1"))
    assert change.instances == ("prefill-2",)
    assert change.by_switch
    assert change.gained is Role.DECODE
    assert "decode-1 is lost for 1000 s, 1 of 2 decode instances are active" in change.why


@pytest.mark.parametrize(
    ("view", "memory"),
    [
        pytest.param(one_lost(*prefills(3), now=29.9), known("decode-1"), id="it may come back yet"),
        pytest.param(one_lost(*prefills(3)), Memory(), id="it never served"),
        pytest.param(one_lost(*prefills(1)), known("decode-1"), id="the last prefill"),
        pytest.param(one_lost(*prefills(3), switches=SWITCHED_OFF), known("decode-1"), id="fault tolerance off"),
        pytest.param(one_lost(*prefills(3), switches=Switches(scale_p2d=False)), known("decode-1"), id="off"),
        pytest.param(one_lost(*prefills(3), targets={Role.DECODE: 1}), known("decode-1"), id="no more are wanted"),
        pytest.param(
            one_lost(*prefills(3), spare_nodes=(a_node("spare", Role.DECODE),)), known("decode-1"), id="a spare node"
        ),
        pytest.param(one_lost(*prefills(3), complete=False), known("decode-1"), id="a new leader listens"),
        pytest.param(
            a_fleet(
                *prefills(3),
                an_instance("decode-0"),
                an_instance("decode-1", InstanceState.INACTIVE, node={"machine": "bad"}),
                faults=(a_fault("bad"),),
                targets=WANTED,
                capped=frozenset({Role.DECODE}),
            ),
            known("decode-1"),
            id="the core would form none: it is not separated yet",
        ),
        pytest.param(
            one_lost(*prefills(3), an_instance("decode-2", InstanceState.INITIAL)), known("decode-1"), id="one starts"
        ),
        pytest.param(
            one_lost(*prefills(3), an_instance("decode-2", InstanceState.INACTIVE)), known("decode-1"), id="restarts"
        ),
        pytest.param(one_lost(*prefills(3, node={})), known("decode-1"), id="no nodes for both, no pods that follow"),
        pytest.param(one_lost(*prefills(3, nodes=2)), known("decode-1"), id="nodes do not fit"),
        pytest.param(
            one_lost(*prefills(3, node={**EITHER, "machine": "bad"}), faults=(a_fault("bad"),)),
            known("decode-1"),
            id="prefill's hardware is broken too",
        ),
        pytest.param(
            one_lost(*prefills(3), now=1000.0),
            msgspec.structs.replace(known("decode-1"), changed={Role.PREFILL: 941.0}),
            id="a pause after the last change",
        ),
    ],
)
def test_nothing_is_given_up(view, memory):
    assert not [one for one in decide(view, memory) if isinstance(one, ChangeRoles)]


def test_numbers_that_operators_asked_for_do_not_count_what_is_out():
    (change,) = scale_p2d(one_lost(*prefills(3), capped=frozenset({Role.DECODE})), known("decode-1"))
    assert change.instances == ("prefill-2",)


def test_a_broken_spare_node_helps_nobody():
    spare = a_node("spare", Role.DECODE, machine="bad")
    (change,) = scale_p2d(one_lost(*prefills(3), spare_nodes=(spare,), faults=(a_fault("bad"),)), known("decode-1"))
    assert change.instances == ("prefill-2",)


def test_as_many_are_released_as_have_its_nodes():
    view = one_lost(*prefills(4, node={}), nodes=3, switches=IN_A_CLUSTER)
    (change,) = scale_p2d(view, known("decode-1", nodes=3))
    assert change.instances == ("prefill-3", "prefill-2", "prefill-1")
    assert not change.by_switch
    wide = one_lost(*prefills(2, nodes=4, node={}), nodes=3, switches=IN_A_CLUSTER)
    (change,) = scale_p2d(wide, known("decode-1", nodes=3))
    assert change.instances == ("prefill-1",)
    few = one_lost(*prefills(3, node={}), nodes=3, switches=IN_A_CLUSTER)
    assert scale_p2d(few, known("decode-1", nodes=3)) == (), "the last would go"


def test_an_instance_that_has_left_the_fleet_is_still_missed():
    memory = Memory()
    healthy = a_fleet(*prefills(3), an_instance("decode-0"), an_instance("decode-1"), now=0.0, targets=WANTED)
    memory = remember(healthy, memory, decide(healthy, memory))
    silent = one_lost(*prefills(3), now=10.0)
    memory = remember(silent, memory, decide(silent, memory))
    gone = a_fleet(*prefills(3), an_instance("decode-0"), now=40.0, targets=WANTED)
    (change,) = decide(gone, memory)
    assert isinstance(change, ChangeRoles)
    assert change.instances == ("prefill-2",)


def test_an_instance_that_waits_for_a_node_it_had_is_lost():
    waits = an_instance("decode-1", InstanceState.INITIAL, nodes=1)
    view = a_fleet(*prefills(3, nodes=2), an_instance("decode-0", nodes=2), waits, targets=WANTED)
    assert len(scale_p2d(view, known("decode-1", nodes=2))) == 1
    assert scale_p2d(view, Memory(served={"decode-1": 1})) == (), "it starts"


def test_hardware_from_level_four_on_is_lost():
    apart = an_instance("decode-1", InstanceState.INACTIVE, node={"machine": "m"}, separated=True)
    for level in range(3, 7):
        view = a_fleet(*prefills(2), an_instance("decode-0"), apart, targets=WANTED, faults=(a_fault("m", level),))
        assert len(scale_p2d(view, known("decode-1"))) == (level >= 4)


def test_a_change_that_does_not_come_about_is_told_and_not_waited_for_for_ever():
    memory = known("decode-1")
    view = one_lost(*prefills(3))
    memory = remember(view, memory, decide(view, memory))
    assert memory.change is not None
    late = one_lost(*prefills(2), now=1000.0 + view.switches.scale_p2d_limit)
    (told,) = decide(late, memory)
    assert "prefill-2 were given up 1800 s ago" in told.why
    memory = remember(late, memory, (told,))
    assert memory.change is None


def test_what_was_borrowed_goes_back_also_under_a_new_leader():
    borrowed = an_instance("decode-2", node={**EITHER, "role": Role.PREFILL}, load=9.0)
    view = a_fleet(*prefills(2), an_instance("decode-0"), an_instance("decode-1"), borrowed, targets=WANTED)
    (change,) = scale_p2d(view, Memory())
    assert change.instances == ("decode-2",)
    assert change.gained is Role.PREFILL
    assert change.by_switch
    enough = msgspec.structs.replace(view, targets={Role.PREFILL: 2, Role.DECODE: 2})
    assert scale_p2d(enough, Memory()) == ()
    starting = msgspec.structs.replace(
        view, instances=(*view.instances, an_instance("prefill-5", InstanceState.INITIAL))
    )
    assert scale_p2d(starting, Memory()) == ()


def test_what_was_borrowed_goes_back_when_the_lost_nodes_are_spare():
    borrowed = an_instance("decode-2", node={**EITHER, "role": Role.PREFILL})
    view = a_fleet(*prefills(2), an_instance("decode-0"), borrowed, targets=WANTED)
    assert scale_p2d(view, Memory()) == ()
    back = msgspec.structs.replace(view, spare_nodes=(a_node("decode-1.0", Role.DECODE),))
    (change,) = scale_p2d(back, Memory())
    assert (change.instances, change.gained, change.by_switch) == (("decode-2",), Role.PREFILL, True)
    only = a_fleet(*prefills(2), borrowed, targets={**WANTED, Role.DECODE: 1}, spare_nodes=back.spare_nodes)
    assert scale_p2d(only, Memory()) == (), "nobody would decode meanwhile"


def test_without_nodes_for_both_a_decode_instance_too_many_is_released_in_a_cluster():
    view = a_fleet(*prefills(2, node={}), *(an_instance(f"decode-{number}") for number in range(3)), targets=WANTED)
    assert scale_p2d(view, Memory()) == ()
    (change,) = scale_p2d(msgspec.structs.replace(view, switches=IN_A_CLUSTER), Memory())
    assert change.instances == ("decode-2",)
    assert not change.by_switch


@dataclass
class World:
    """A fleet whose nodes play either role; a switch takes some time, machines fail and come back."""

    targets: dict[Role, int]
    steps_to_switch: int
    now: float = 0.0
    memory: Memory = field(default_factory=Memory)
    changes: list[ChangeRoles] = field(default_factory=list)
    least_prefills: int = 99

    def __post_init__(self) -> None:
        self.roles = {f"{role.value}-{number}": role for role, count in self.targets.items() for number in range(count)}
        self.home = dict(self.roles)
        self.starting: dict[str, int] = {}
        self.broken: dict[str, float] = {}

    def view(self) -> FleetView:
        instances = []
        for name, role in self.roles.items():
            silent = name in self.broken
            state = (
                InstanceState.INACTIVE
                if silent
                else InstanceState.INITIAL
                if name in self.starting
                else InstanceState.ACTIVE
            )
            node = a_node(name, self.home[name], roles=EITHER["roles"], silent=silent)
            number = list(self.roles).index(name) + (100 if role is not self.home[name] else 0)
            instances.append(
                InstanceView(
                    name=f"{role.value}-{number}",
                    role=role,
                    state=state,
                    since=self.broken.get(name, 0.0),
                    nodes=(node,),
                )
            )
        return a_fleet(*instances, now=self.now, targets=self.targets)

    def step(self, seconds: float) -> None:
        self.now += seconds
        self.starting = {name: left - 1 for name, left in self.starting.items() if left > 1}
        view = self.view()
        decisions = decide(view, self.memory)
        self.memory = remember(view, self.memory, decisions)
        by_name = {one.name: one.nodes[0].name for one in view.instances}
        for change in decisions:
            if isinstance(change, ChangeRoles):
                self.changes.append(change)
                for instance in change.instances:
                    name = by_name[instance]
                    assert name not in self.broken
                    self.roles[name] = change.gained
                    self.starting[name] = self.steps_to_switch
                if change.gained is Role.DECODE:
                    self.least_prefills = min(self.least_prefills, self.view().active(Role.PREFILL))

    def run(self, minutes: int) -> None:
        for _ in range(minutes):
            self.step(60.0)

    def fail(self, name: str) -> None:
        self.broken.setdefault(name, self.now)

    def mend(self, name: str) -> None:
        if self.broken.pop(name, None) is not None:
            self.starting[name] = 2


worlds = st.builds(
    World,
    st.fixed_dictionaries({Role.PREFILL: st.integers(1, 5), Role.DECODE: st.integers(1, 4)}),
    st.integers(1, 20),
)
happenings = st.lists(
    st.tuples(st.sampled_from(["fail", "mend", "wait"]), st.integers(0, 8), st.integers(1, 12)), max_size=15
)


@settings(max_examples=100)
@given(worlds, happenings)
def test_whatever_happens_prefill_stays_and_all_is_as_before_in_the_end(world, what):
    world.step(10.0)
    names = list(world.roles)
    for kind, number, steps in what:
        if kind != "wait":
            getattr(world, kind)(names[number % len(names)])
        for _ in range(steps):
            before = len(world.changes)
            world.step(10.0)
            assert len(world.changes) <= before + 1, "one at a time"
    assert world.least_prefills >= 1
    world.run(80)
    settled = len(world.changes)
    world.run(20)
    assert len(world.changes) == settled, "decisions stop"
    for name in names:
        world.mend(name)
    world.run(150)
    view = world.view()
    assert {role: view.active(role) for role in world.targets} == world.targets
    assert world.least_prefills >= 1


@given(worlds, happenings)
def test_switched_off_nothing_changes(world, what):
    plain = world.view

    def view() -> FleetView:
        return msgspec.structs.replace(plain(), switches=SWITCHED_OFF)

    world.view = view
    world.step(10.0)
    names = list(world.roles)
    for kind, number, steps in what:
        if kind != "wait":
            getattr(world, kind)(names[number % len(names)])
        for _ in range(steps):
            world.step(10.0)
    assert world.changes == []
