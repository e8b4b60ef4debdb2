"""The fleet's file: each change a new version, an instance as good as its worst server."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.engines import InstancePlan, ServerPlan
from pymotor.fleet import Endpoint, EndpointState, Instance, InstanceState, Role, decode_snapshot
from pymotor.local.register import FleetRegister

ROLES = {"encode-0": Role.ENCODE, "prefill-0": Role.PREFILL, "decode-0": Role.DECODE}
ENDPOINTS = [f"{name}/{rank}" for name in ROLES for rank in range(2)]


def plan(name: str, role: Role) -> InstancePlan:
    endpoints = tuple(Endpoint(id=f"{name}/{rank}", url=f"http://h:{rank}") for rank in range(2))
    servers = tuple(ServerPlan(name=one.id, endpoint=one, argv=(), env={}) for one in endpoints)
    return InstancePlan(
        instance=Instance(name=name, role=role, models=("m",), engine="sim", endpoints=endpoints), servers=servers
    )


def register(directory: Path) -> FleetRegister:
    return FleetRegister([plan(name, role) for name, role in ROLES.items()], directory / "fleet.json")


@given(marks=st.lists(st.tuples(st.sampled_from(ENDPOINTS), st.sampled_from(EndpointState)), max_size=30))
def test_versions_grow_with_each_change_and_the_file_is_the_newest(
    tmp_path_factory: pytest.TempPathFactory, marks: list[tuple[str, EndpointState]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "fleet.json"
    fleet = register(file.parent)
    for endpoint, state in marks:
        before = fleet.snapshot
        instance = fleet.mark(endpoint, state, "broken" if state is EndpointState.GONE else "")
        after = fleet.snapshot
        assert decode_snapshot(file.read_bytes()) == after
        assert after.version - before.version == (after.instances != before.instances)
        states = [one.state for one in instance.endpoints]
        assert instance.serves == (states == [EndpointState.READY] * 2)
        assert not (instance.serves and instance.fault)
        if EndpointState.GONE in states:
            assert instance.state in (InstanceState.INACTIVE, InstanceState.GONE)
        assert fleet.can_answer == any(one.serves and one.role is not Role.ENCODE for one in after.instances)


def test_a_full_disk_is_told_and_the_change_counts(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    fleet = register(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "gone")
    with pytest.raises(OSError, match="No such file"):
        fleet.mark("encode-0/0", EndpointState.READY)
    assert fleet.instance_of("encode-0/0").endpoints[0].state is EndpointState.READY
