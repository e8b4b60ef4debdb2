"""Who is left out of the choice of an endpoint, and who is left to choose from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ledgers import shared_ledgers

from pymotor.coordinator.flows.reservations import to_avoid
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import Endpoint, Instance, Role

ROWS = 4
IDS = [f"decode-0/{row}" for row in range(ROWS)]
FAILED = st.lists(st.sampled_from([*IDS, "prefill-0/0", "encode-0/0"]), unique=True)
"""Endpoints of other groups fail requests too."""


def group_on(ledger: Ledger) -> Group:
    """An endpoint for each row."""
    owner = Instance(name="decode-0", role=Role.DECODE, models=("tiny",), engine="sim")
    return Group(
        [
            Target(Endpoint(id=name, url="http://127.0.0.1:1"), owner, ledger, row, 1, SharedState())
            for row, name in enumerate(IDS)
        ]
    )


@given(FAILED, st.frozensets(st.sampled_from(IDS)))
def test_those_without_room_and_those_that_failed_are_left_out(failed: list[str], without_room: frozenset[str]) -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        left = set(IDS) - to_avoid(group_on(ledger), failed, without_room)
    with_room = set(IDS) - without_room
    if with_room - set(failed):
        assert left == with_room - set(failed)
    elif newest := [name for name in failed if name in IDS][-1:]:
        assert left == (with_room - set(newest) or with_room)
    assert left <= with_room, "room is a must, the past is not"
