"""Why an endpoint was chosen, as the dashboard tells it: of few and of many that could have been."""

from __future__ import annotations

import random

import pytest
from ledgers import endpoints_of, group_of

from pymotor.coordinator.trail import Candidate, Trail

MOST = 16


@pytest.mark.parametrize("count", [1, 2, MOST, MOST + 1, 40])
@pytest.mark.parametrize("in_a_row", [True, False])
@pytest.mark.parametrize("chosen", ["least", "most"])
def test_who_could_have_been_chosen(count: int, in_a_row: bool, chosen: str) -> None:
    with endpoints_of(count) as (ledger, targets):
        loads = random.Random(count).choices(range(500), k=count)
        for target, load in zip(targets, loads, strict=True):
            ledger.begin(target.row, load, 0)
        group = group_of(targets if in_a_row else targets[::-1])
        by_load = sorted(group.targets, key=lambda target: loads[target.row] // 10)
        target = by_load[0 if chosen == "least" else -1]
        excluded = {one.endpoint_id for one in targets[::3]}

        trail = Trail()
        trail.chose(ledger, group, target, excluded)
        told = trail.begin_leg("union", target, b"", b"", 0, "")
        # What happens afterwards has no part in it.
        ledger.begin(target.row, 10_000, 0)
        excluded.clear()

        # Equals stay in the order of the group.
        in_order = [target, *(one for one in by_load[:MOST] if one is not target)][:MOST]
        assert told.why == tuple(
            Candidate(one.endpoint_id, loads[one.row] // 10, one is target, one.row % 3 == 0) for one in in_order
        )


def test_nothing_is_known() -> None:
    with endpoints_of(1) as (_, (target,)):
        assert Trail().begin_leg("union", target, b"", b"", 0, "").why is None
