"""Alarms: what raises and clears them, what a record looks like, and that reading takes nothing away."""

from __future__ import annotations

import msgspec
import pytest
from faulty_fleets import a_fleet, a_node, an_endpoint, an_instance
from hypothesis import given
from hypothesis import strategies as st

from pymotor.controller.alarm_records import AlarmRecord, Origin, record_from
from pymotor.controller.alarms import AlarmLog, FleetAlarms
from pymotor.controller.faults.view import CoordinatorView, FleetView
from pymotor.fleet import EndpointState, InstanceState, Role

ORIGIN = Origin(service_id="pod-7", engine_type="vLLM", address="10.1.1.1")
INSTANCE, DEGRADED, SERVER, COORDINATOR = "0xFC001002", "0xFC001001", "0xFC001003", "0xFC001004"


def a_log(kept: int = 100) -> AlarmLog:
    return AlarmLog(ORIGIN, lambda: 1000.0, kept=kept)


def told(*views: FleetView) -> list[tuple[str, int, int]]:
    """Id, category and reason of what these views, one after the other, write."""
    log = a_log()
    alarms = FleetAlarms(log)
    for view in views:
        alarms.look(view)
    return [(one.alarm_id, one.category, one.reason_id) for one in log.read().records]


def pair(state: InstanceState = InstanceState.ACTIVE, **more) -> FleetView:
    return a_fleet(an_instance("prefill-0"), an_instance("decode-0", state, **more))


def test_an_instance_fails_and_comes_back():
    failed = pair(InstanceState.INACTIVE)
    assert told(pair(), failed, failed, pair(InstanceState.INITIAL), pair()) == [
        (INSTANCE, 1, 1),
        (DEGRADED, 1, 1),
        (COORDINATOR, 1, 1),
        (INSTANCE, 2, 1),
        (DEGRADED, 2, 1),
        (COORDINATOR, 2, 1),
    ]


def test_a_record_is_as_platforms_read_it():
    log = a_log()
    FleetAlarms(log).look(a_fleet(an_instance("decode-0", InstanceState.INACTIVE, fault="it broke"), targets={}))
    where = "service name=Controller, instance type=decode, inst_id=decode-0, service ip=10.1.1.1"
    assert msgspec.to_builtins(log.read().records) == (
        {
            "category": 1,
            "cleared": 0,
            "clearCategory": 1,
            "occurUtc": 1_000_000,
            "occurTime": 1_000_000,
            "nativeMeDn": "pod-7",
            "originSystem": "vLLM",
            "originSystemName": "vLLM",
            "originSystemType": "vLLM",
            "location": where,
            "moi": where,
            "eventType": 15,
            "alarmId": INSTANCE,
            "alarmName": "Model Instance Exception Alarm",
            "severity": 1,
            "probableCause": "1:hardware or software of the instance failed",
            "reasonId": 1,
            "serviceAffectedType": 1,
            "additionalInformation": f"{where}, it broke, pod id=pod-7",
        },
    )


def test_what_is_meant_raises_nothing():
    cordoned = pair(InstanceState.INACTIVE, cordoned=True)
    drained = pair(InstanceState.DRAINING)
    assert INSTANCE not in {one for one, _, _ in told(pair(), cordoned, drained, pair(InstanceState.INITIAL))}
    listening = msgspec.structs.replace(pair(InstanceState.INACTIVE), complete=False)
    assert told(listening) == []


def test_an_instance_that_left_is_missed_until_its_role_is_whole():
    two = a_fleet(an_instance("decode-0"), an_instance("decode-1", InstanceState.INACTIVE))
    one = a_fleet(an_instance("decode-0"), targets={Role.DECODE: 2})
    again = a_fleet(an_instance("decode-0"), an_instance("decode-2"))
    assert [entry for entry in told(two, one, one) if entry[0] == INSTANCE] == [(INSTANCE, 1, 1)]
    assert [entry for entry in told(two, one, again) if entry[0] == INSTANCE] == [(INSTANCE, 1, 1), (INSTANCE, 2, 1)]
    drained = a_fleet(an_instance("decode-0"), an_instance("decode-1", InstanceState.DRAINING))
    assert [entry for entry in told(two, drained, one) if entry[0] == INSTANCE][-1] == (INSTANCE, 2, 1)


def test_servers_tell_once_for_each_failure():
    def view(state: EndpointState, *, silent: bool = False) -> FleetView:
        node = {"endpoints": (an_endpoint("decode-0/0", state),), "silent": silent}
        return a_fleet(an_instance("decode-0", node=node), spare_nodes=(a_node("spare", Role.DECODE),))

    well, ill, silent = view(EndpointState.READY), view(EndpointState.UNHEALTHY), view(EndpointState.READY, silent=True)
    assert told(well, ill, ill, well, ill, silent, silent) == [(SERVER, 3, 2), (SERVER, 3, 2), (SERVER, 3, 1)]


def heard(*names: str) -> FleetView:
    return msgspec.structs.replace(pair(), coordinators=tuple(CoordinatorView(name=one, heard=True) for one in names))


def test_coordinators():
    assert told(heard("a"), heard(), heard("a")) == [(COORDINATOR, 1, 2), (COORDINATOR, 2, 2)]
    assert told(heard("a", "b"), heard("b"), heard("b", "c")) == [(COORDINATOR, 1, 2), (COORDINATOR, 2, 2)]
    assert told(heard("a", "b"), heard("b"), heard("b")) == [(COORDINATOR, 1, 2)]
    both = told(heard("a", "b"), heard(), heard("c"), heard("c", "d"))
    assert both == [(COORDINATOR, 1, 2)] * 2 + [(COORDINATOR, 2, 2)] * 2
    silent = msgspec.structs.replace(pair(), coordinators=(CoordinatorView(name="a", heard=False),))
    assert told(heard("a"), silent) == [(COORDINATOR, 1, 2)]
    assert told(silent) == [], "it was never heard of"


def test_a_service_that_never_served_is_not_missing():
    assert told(a_fleet(targets={})) == []


def test_a_new_leader_says_that_the_former_one_is_none():
    log = a_log()
    FleetAlarms(log).took_over()
    (record,) = log.read().records
    assert (record.alarm_id, record.category, record.cleared, record.severity) == ("0xFC001000", 3, 1, 4)


def test_reading_takes_nothing_away():
    log = a_log()
    FleetAlarms(log).look(pair(InstanceState.INACTIVE))
    first = log.read()
    assert first.records
    assert log.read() == first
    assert log.read(first.last).records == ()
    assert log.read(first.last - 1).records == first.records[-1:]


@given(st.integers(1, 6), st.integers(0, 15), st.integers(-3, 20))
def test_a_cursor_gets_what_is_newer_and_kept(kept, written, after):
    log = a_log(kept)
    before = log.read().last
    for number in range(written):
        log.add(AlarmRecord(alarm_id=str(number)))
    reading = log.read(before + after)
    numbers = [int(record.alarm_id) for record in reading.records]
    everything = list(range(max(0, written - kept), written))
    assert numbers == (everything if after > written else [number for number in everything if number >= after])
    assert reading.last == before + written
    assert reading.last - reading.first + 1 == len(everything)


def test_numbers_grow_across_restarts():
    times = iter([1000.0, 2000.0])
    old, new = (AlarmLog(ORIGIN, lambda: next(times)) for _ in range(2))
    cursor = old.read().last
    new.add(AlarmRecord(alarm_id="x"))
    assert [record.alarm_id for record in new.read(cursor).records] == ["x"]


def test_records_of_other_parts():
    body = b'{"alarm_id": "0xFC001005", "category": 3, "reasonId": 1, "instance_id": "?", "occur_utc": 5}'
    record = record_from(body, 77)
    assert (record.alarm_id, record.category, record.reason_id, record.occur_utc, record.occur_time) == (
        "0xFC001005",
        3,
        1,
        5,
        77,
    )


@pytest.mark.parametrize("body", [b"", b"7", b"[]", b"{}", b'{"alarmId": 7}', b'{"alarmId": "\xff"}', b"[" * 100_000])
def test_what_is_no_record(body):
    with pytest.raises((ValueError, RecursionError)):
        record_from(body, 0)
