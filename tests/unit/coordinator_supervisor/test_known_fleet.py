"""Which snapshots are taken, and that workers learn rows that fit them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_fleets import DECODE, ENCODE, PREFILL, UNION, fleet, instance

from pymotor.coordinator.known_fleet import KnownFleet, SnapshotRefusedError
from pymotor.fleet import FleetSnapshot, InstanceState, Role

INSTANCES = [instance(f"union-{number}", Role.UNION) for number in range(6)]
SNAPSHOTS = st.builds(
    FleetSnapshot,
    epoch=st.integers(0, 2),
    version=st.integers(0, 5),
    complete=st.booleans(),
    instances=st.lists(st.sampled_from(INSTANCES), unique_by=lambda one: one.name).map(tuple),
)


@given(st.lists(SNAPSHOTS, max_size=30))
def test_what_is_known_only_grows_and_incomplete_snapshots_remove_nobody(snapshots: list[FleetSnapshot]) -> None:
    known = KnownFleet(16)
    accepted: FleetSnapshot | None = None
    names: set[str] = set()
    for snapshot in snapshots:
        number = (snapshot.epoch, snapshot.version)
        try:
            update = known.accept(snapshot)
        except SnapshotRefusedError:
            assert accepted is not None
            assert number < (accepted.epoch, accepted.version) or (
                number == (accepted.epoch, accepted.version) and snapshot != accepted
            )
        else:
            if update is None:
                assert snapshot == accepted
                continue
            assert accepted is None or number > (accepted.epoch, accepted.version)
            accepted = snapshot
            told = {one.name for one in snapshot.instances}
            names = told if snapshot.complete else names | told
            assert update.snapshot.complete is snapshot.complete
            assert set(update.rows) == {f"{name}/0" for name in names}
        assert {one.name for one in known.instances} == names
        assert len({known.row(endpoint) for one in known.instances for endpoint in one.endpoints}) == len(names)


def test_an_incomplete_snapshot_changes_those_it_names() -> None:
    known = KnownFleet(8)
    known.accept(fleet(PREFILL, DECODE, version=4))
    drained = msgspec.structs.replace(DECODE, state=InstanceState.DRAINING)
    known.accept(fleet(drained, ENCODE, epoch=1, complete=False))
    assert {one.name: one.state for one in known.instances} == {
        "prefill-0": InstanceState.ACTIVE,
        "decode-0": InstanceState.DRAINING,
        "encode-0": InstanceState.ACTIVE,
    }
    known.accept(fleet(ENCODE, epoch=1, version=2))
    assert [one.name for one in known.instances] == ["encode-0"]


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        (fleet(UNION, version=2), r"\(0, 2\) are older than \(0, 3\)"),
        (fleet(PREFILL, version=3), "differs from the one known with the same epoch and version"),
        (fleet(UNION, UNION, version=4), "names instance 'union-0' more than once"),
        (
            fleet(UNION, msgspec.structs.replace(UNION, name="union-1"), version=4),
            "names endpoint 'union-0/0' more than once",
        ),
        (fleet(*INSTANCES, version=4), "6 endpoints, and the ledger has 4 rows"),
    ],
)
def test_a_refused_snapshot_leaves_what_was_known(snapshot: FleetSnapshot, reason: str) -> None:
    known = KnownFleet(4)
    before = known.accept(fleet(UNION, version=3))
    with pytest.raises(SnapshotRefusedError, match=reason):
        known.accept(snapshot)
    assert known.update is before
    after = known.accept(fleet(UNION, PREFILL, version=5))
    assert before is not None
    assert after is not None
    assert after.rows["union-0/0"] == before.rows["union-0/0"]
