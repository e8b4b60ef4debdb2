"""In which state an instance is: one function of what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymotor.fleet import EndpointState, InstanceState, ServerReport


@dataclass(frozen=True, slots=True)
class SeatFacts:
    """One node of an instance."""

    node: str
    """Empty: nobody has the seat."""
    silent: bool = False
    problem: str = ""
    follows: bool = False
    """Whether its servers are those of the present order."""
    servers: tuple[ServerReport, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the state of an instance follows from."""

    seats: Sequence[SeatFacts]
    drain_reason: str = ""
    """Empty: it is not draining."""
    cordoned: bool = False
    cordon_reason: str = ""
    separated: str = ""
    """Why faults keep it apart; empty: they do not."""
    problem: str = ""
    """Why it cannot be put together; empty: it can."""


def state_of(facts: InstanceFacts) -> tuple[InstanceState, str]:
    """The state, and why the instance does not serve; the words hold nothing that changes with time alone."""
    if facts.drain_reason:
        return InstanceState.DRAINING, facts.drain_reason
    silent = [seat.node for seat in facts.seats if seat.silent]
    if silent:
        return InstanceState.INACTIVE, f"node {', '.join(silent)} is not heard of"
    if facts.separated:
        return InstanceState.INACTIVE, facts.separated
    if facts.problem:
        return InstanceState.INACTIVE, facts.problem
    for seat in facts.seats:
        if seat.problem:
            return InstanceState.INACTIVE, f"node {seat.node}: {seat.problem}"
    following = [server for seat in facts.seats if seat.follows for server in seat.servers]
    for server in following:
        if server.state in (EndpointState.GONE, EndpointState.UNHEALTHY):
            return InstanceState.INACTIVE, f"{server.name} is {server.detail or server.state.value}"
    missing = sum(not seat.node for seat in facts.seats)
    if missing:
        return InstanceState.INITIAL, f"{missing} of {len(facts.seats)} nodes are not there yet"
    if not all(seat.follows for seat in facts.seats) or any(
        server.state is EndpointState.STARTING for server in following
    ):
        return InstanceState.INITIAL, "it starts"
    if facts.cordoned:
        return InstanceState.INACTIVE, f"cordoned: {facts.cordon_reason}" if facts.cordon_reason else "cordoned"
    return InstanceState.ACTIVE, ""
