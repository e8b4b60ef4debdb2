"""Whom faults of hardware take out of service, and when they serve again."""

from __future__ import annotations

import msgspec
from faulty_fleets import SWITCHED_OFF, a_fault, a_fleet, an_instance
from hypothesis import given
from hypothesis import strategies as st

from pymotor.controller.faults.decisions import Recover, Separate
from pymotor.controller.faults.levels import NODE_NOT_READY, FaultLevel
from pymotor.controller.faults.policies import decide, remember
from pymotor.controller.faults.view import FleetView, Memory, Switches
from pymotor.fleet import InstanceState

FOUR = {"device_ids": ("0", "1", "2", "3"), "machine": "m"}
NEXT_FOUR = {"device_ids": ("4", "5", "6", "7"), "machine": "m"}


def names(view: FleetView, kind: type) -> list[str]:
    return [one.instance for one in decide(view, Memory()) if isinstance(one, kind)]


def test_a_machine_takes_all_its_instances_a_device_only_its_own():
    instances = (
        an_instance("prefill-0", node=FOUR),
        an_instance("decode-0", node=NEXT_FOUR),
        an_instance("decode-1", node={"machine": "other"}),
    )
    assert names(a_fleet(*instances, faults=(a_fault("m"),)), Separate) == ["prefill-0", "decode-0"]
    assert names(a_fleet(*instances, faults=(a_fault("m", device="Ascend910-5"),)), Separate) == ["decode-0"]


def test_without_known_devices_a_device_takes_the_whole_machine():
    instances = (an_instance("prefill-0", node={"machine": "m"}), an_instance("decode-0", node={"machine": ""}))
    assert names(a_fleet(*instances, faults=(a_fault("m", device="Ascend910-5"),)), Separate) == ["prefill-0"]


def test_levels_one_and_two_are_endured():
    instance = an_instance("prefill-0", node=FOUR)
    for level in FaultLevel:
        separated = names(a_fleet(instance, faults=(a_fault("m", level),)), Separate)
        assert separated == (["prefill-0"] if level > FaultLevel.L2 else [])


def test_recovered_when_the_fault_is_gone_or_less():
    instance = an_instance("decode-0", InstanceState.INACTIVE, node=FOUR, separated=True)
    assert names(a_fleet(instance), Recover) == ["decode-0"]
    assert names(a_fleet(instance, faults=(a_fault("m", FaultLevel.L2),)), Recover) == ["decode-0"]
    assert decide(a_fleet(instance, faults=(a_fault("m"),)), Memory()) == ()


def test_nothing_is_decided_of_what_is_not_known():
    hurt = an_instance("decode-0", node=FOUR)
    apart = an_instance("decode-1", InstanceState.INACTIVE, separated=True)
    for off in ({"complete": False}, {"faults_known": False}):
        assert decide(a_fleet(hurt, apart, faults=(a_fault("m"),), **off), Memory()) == ()


def test_switched_off_nobody_is_separated_and_who_was_is_let_back():
    hurt = an_instance("decode-0", node=FOUR)
    apart = an_instance("decode-1", InstanceState.INACTIVE, separated=True)
    view = a_fleet(hurt, apart, faults=(a_fault("m"),), switches=SWITCHED_OFF)
    assert [one.instance for one in decide(view, Memory())] == ["decode-1"]
    assert names(view, Recover) == ["decode-1"]


def test_what_is_going_anyway_is_left_alone():
    view = a_fleet(an_instance("decode-0", InstanceState.DRAINING, node=FOUR), faults=(a_fault("m"),))
    assert names(view, Separate) == []


def not_ready(machine: str):
    return a_fault(machine, code=NODE_NOT_READY)


def test_when_most_machines_are_called_not_ready_but_report_nobody_is_separated():
    machines = ("a", "b", "c")
    instances = tuple(an_instance(f"decode-{i}", node={"machine": name}) for i, name in enumerate(machines))
    one = a_fleet(*instances, faults=(not_ready("a"),))
    assert names(one, Separate) == ["decode-0"]
    two = a_fleet(*instances, faults=(not_ready("a"), not_ready("b")))
    assert names(two, Separate) == []
    (told,) = decide(two, Memory())
    assert "decode-0, decode-1" in told.why
    apart = msgspec.structs.replace(instances[0], separated=True, state=InstanceState.INACTIVE)
    again = a_fleet(apart, *instances[1:], faults=(not_ready("a"), not_ready("b")))
    assert names(again, Recover) == ["decode-0"]
    broken = a_fleet(*instances, faults=tuple(a_fault(name) for name in machines))
    assert names(broken, Separate) == ["decode-0", "decode-1", "decode-2"], "hardware itself is believed"
    silent = tuple(an_instance(f"decode-{i}", node={"machine": name, "silent": True}) for i, name in enumerate("ab"))
    assert names(a_fleet(*silent, faults=(not_ready("a"), not_ready("b"))), Separate) == ["decode-0", "decode-1"]


def test_a_network_fault_is_told_once_for_as_long_as_it_lasts():
    instance = an_instance("decode-0", node=FOUR)
    fault = a_fault("m", FaultLevel.L2, code=0x00F1FEF5)
    view = a_fleet(instance, faults=(fault,))
    memory = Memory()
    (told,) = decide(view, memory)
    assert "0x00F1FEF5" in told.why
    memory = remember(view, memory, (told,))
    assert decide(view, memory) == ()
    gone = a_fleet(instance)
    memory = remember(gone, memory, decide(gone, memory))
    assert len(decide(view, memory)) == 1
    assert decide(a_fleet(instance, faults=(fault,), switches=Switches(token_reinference=False)), Memory()) == ()
    assert decide(a_fleet(instance, faults=(a_fault("m", FaultLevel.L2, code=7),)), Memory()) == ()


machines = st.sampled_from(["a", "b", "c"])
faults = st.lists(
    st.builds(
        a_fault,
        machines,
        st.sampled_from(FaultLevel),
        device=st.sampled_from(["", "Ascend910-0", "Ascend910-1"]),
        code=st.sampled_from([NODE_NOT_READY, 0x80CD8008]),
    ),
    max_size=4,
)
placed = st.lists(
    st.tuples(machines, st.sampled_from([(), ("0",), ("1",), ("0", "1")]), st.booleans(), st.booleans()), max_size=5
)


@given(placed, faults)
def test_decisions_of_separation_settle_at_once(places, present):
    """Carried out, they leave nothing to decide."""
    instances = tuple(
        an_instance(
            f"decode-{number}",
            InstanceState.INACTIVE if separated else InstanceState.ACTIVE,
            node={"machine": machine, "device_ids": devices, "silent": silent},
            separated=separated,
        )
        for number, (machine, devices, silent, separated) in enumerate(places)
    )
    view = a_fleet(*instances, faults=tuple(present), switches=Switches(scale_p2d=False))
    apart = set(names(view, Separate))
    back = set(names(view, Recover))
    after = tuple(
        msgspec.structs.replace(
            one,
            separated=(one.separated or one.name in apart) and one.name not in back,
            state=InstanceState.INACTIVE if one.name in apart else one.state,
        )
        for one in instances
    )
    settled = msgspec.structs.replace(view, instances=after)
    assert names(settled, Separate) == names(settled, Recover) == []
