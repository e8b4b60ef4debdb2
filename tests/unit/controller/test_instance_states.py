"""The rules by which an instance has its state, one by one."""

from __future__ import annotations

import pytest

from pymotor.controller.instance_states import InstanceFacts, SeatFacts, state_of
from pymotor.fleet import EndpointState, InstanceState, ServerReport


def seat(*states: EndpointState, node: str = "n", **more: object) -> SeatFacts:
    servers = tuple(ServerReport(name=f"s{number}", state=state) for number, state in enumerate(states))
    return SeatFacts(**{"node": node, "follows": True, "servers": servers, **more})  # type: ignore[arg-type]


READY, STARTING = EndpointState.READY, EndpointState.STARTING
EMPTY = SeatFacts("")


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        (InstanceFacts([seat(READY, READY)]), "active", ""),
        (InstanceFacts([seat(READY), seat(READY)]), "active", ""),
        (InstanceFacts([seat(READY, STARTING)]), "initial", "starts"),
        (InstanceFacts([seat(READY), seat(READY, follows=False)]), "initial", "starts"),
        (InstanceFacts([seat(READY), EMPTY]), "initial", "1 of 2 nodes"),
        (InstanceFacts([seat(READY, EndpointState.GONE)]), "inactive", "s1 is gone"),
        (InstanceFacts([seat(EndpointState.UNHEALTHY)]), "inactive", "s0 is unhealthy"),
        (InstanceFacts([seat(EndpointState.GONE, follows=False)]), "initial", "starts"),
        (InstanceFacts([seat(READY, silent=True)]), "inactive", "node n is not heard of"),
        (InstanceFacts([seat(READY, problem="no device")]), "inactive", "no device"),
        (InstanceFacts([seat(READY)], problem="tables"), "inactive", "tables"),
        (InstanceFacts([seat(READY)], separated="a fault"), "inactive", "a fault"),
        (InstanceFacts([seat(READY)], cordoned=True), "inactive", "cordoned"),
        (InstanceFacts([seat(STARTING)], cordoned=True), "initial", "starts"),
        (InstanceFacts([seat(READY, silent=True)], drain_reason="drained", cordoned=True), "draining", "drained"),
    ],
)
def test_state(facts: InstanceFacts, state: str, words: str) -> None:
    found, fault = state_of(facts)
    assert found is InstanceState(state)
    assert words in fault
    assert bool(fault) == (found is not InstanceState.ACTIVE)
