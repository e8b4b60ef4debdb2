"""Nodes become instances: who gets which seat, and who keeps the one that it says it has."""

from __future__ import annotations

from pymotor.controller.drains import drain_from
from pymotor.controller.fleet_book import FleetBook
from pymotor.controller.groups import Group
from pymotor.controller.nodes import KnownNode
from pymotor.fleet import NodeOrder, Role


def claim(book: FleetBook, node: KnownNode, held: NodeOrder, now: float) -> None:
    """A node without a seat says that it holds an instance: it keeps it where nobody else has it."""
    why_not = _why_not(book, node, held)
    if not why_not:
        _take_seat(book, node, held, now)
    elif node.claim_refused != held.instance:
        node.claim_refused = held.instance
        words = f"{node.name} says that it is rank {held.node_rank} of {held.instance}, and is to end it: {why_not}"
        book.say(now, "claim_refused", words, book.groups.get(held.instance), node.name)


def _why_not(book: FleetBook, node: KnownNode, held: NodeOrder) -> str:
    if held.role is None or held.instance != f"{held.role.value}-{held.number}" or held.node_rank >= held.nodes:
        return "it contradicts itself"
    group = book.groups.get(held.instance)
    if group is None:
        others = book.holders.get(held.instance, set()) - {node.name, ""}
        return f"node {', '.join(sorted(others))} may still run it" if others and held.nodes == 1 else ""
    if (group.job, len(group.seats)) != (node.report.job, held.nodes):
        return "that instance is of another job or size"
    if group.ending:
        return "that instance ends"
    other = group.seats[held.node_rank]
    if not other:
        return ""
    others_held = book.nodes[other].report.held
    if book.listening and others_held is not None and held.age > others_held.age:
        return ""  # nobody has been known before: the newer order tells who had it last
    return f"node {other} has it"


def _take_seat(book: FleetBook, node: KnownNode, held: NodeOrder, now: float) -> None:
    assert held.role is not None
    group = book.groups.get(held.instance)
    if group is None:
        group = Group(
            job=node.report.job,
            role=held.role,
            number=held.number,
            since=now,
            incomplete_since=now,
            seats=[""] * held.nodes,
            generation=held.generation,
            reserved=held.nodes > 1,
        )
        book.found(group)
    other = group.seats[held.node_rank]
    if other:
        book.nodes[other].instance = ""
        book.nodes[other].claim_refused = group.name
        book.say(now, "claim_refused", f"{node.name} was ordered it later than {other}", group, other)
    group.generation = max(group.generation, held.generation)
    group.cordoned = group.cordoned or held.cordoned
    group.cordon_reason = group.cordon_reason or held.cordon_reason
    group.separated = group.separated or held.separated
    if held.draining and group.drain is None:
        group.drain = drain_from(held.drain_reason, now, book.settings.drain_limit)
    if held.role is not node.report.role:
        node.assigned_role = held.role
    _sit(book, group, node, held.node_rank, now, f"{node.name} keeps rank {held.node_rank}")


def place(book: FleetBook, node: KnownNode, now: float) -> None:
    """Give a node that waits a seat: in the instance it prefers, in one that lacks a node, else in a new one."""
    if book.listening or not node.usable:
        return
    preferred = node.report.preferred_number if node.assigned_role is None else None
    if preferred is not None:
        group = book.groups.get(f"{node.role.value}-{preferred}")
        if group is not None and _has_room(group, node):
            _fill(book, group, node, now)
            return
        if book.may_have(node.role, preferred, node.name, now) and _may_found(book, node):
            _fill(book, _founded(book, node, preferred, now), node, now)
            return
    room = next((group for group in book.of_role(node.role) if _has_room(group, node)), None)
    if room is None and _may_found(book, node):
        room = _founded(book, node, book.next_number(node.role), now)
    if room is not None:
        _fill(book, room, node, now)
    else:
        book.order(node)


def _has_room(group: Group, node: KnownNode) -> bool:
    return (
        group.drain is None
        and not group.reserved
        and not group.complete
        and (group.job, len(group.seats)) == (node.report.job, node.report.nodes_per_instance)
    )


def _may_found(book: FleetBook, node: KnownNode) -> bool:
    if not has_place(book, node.role):
        return False
    if not node.withdrawn:
        return True
    report = node.report
    alike = [
        other
        for other in book.unseated()
        if (other.role, other.report.job, other.report.nodes_per_instance)
        == (node.role, report.job, report.nodes_per_instance)
    ]
    return len(alike) >= report.nodes_per_instance


def _founded(book: FleetBook, node: KnownNode, number: int, now: float) -> Group:
    group = Group(
        job=node.report.job,
        role=node.role,
        number=number,
        since=now,
        incomplete_since=now,
        seats=[""] * node.report.nodes_per_instance,
        generation=book.first_generation(f"{node.role.value}-{number}"),
    )
    book.found(group)
    return group


def _fill(book: FleetBook, group: Group, node: KnownNode, now: float) -> None:
    rank = group.seats.index("")
    started = any(group.followed_by(book.nodes[name]) for name in group.members)
    _sit(book, group, node, rank, now, f"{node.name} becomes rank {rank}")
    if started:
        book.raise_generation(group, now, f"{node.name} is new in it")


def _sit(book: FleetBook, group: Group, node: KnownNode, rank: int, now: float, words: str) -> None:
    group.seats[rank] = node.name
    group.shares.pop(rank, None)
    group.incomplete_since = now
    node.instance, node.withdrawn, node.claim_refused = group.name, False, ""
    if group.complete:
        group.reserved = False
    book.say(now, "node_assigned", words, group, node.name)
    book.refresh(group, now)


def withdraw(book: FleetBook, group: Group, now: float) -> None:
    """Its missing nodes did not come: those that are there wait until enough are, in the role they were set up for."""
    members = group.members
    lacking = len(group.seats) - len(members)
    book.dissolve(group, now, f"{lacking} of {len(group.seats)} nodes did not come; the others wait")
    for name in members:
        node = book.nodes[name]
        node.withdrawn, node.assigned_role = True, None


def has_place(book: FleetBook, role: Role) -> bool:
    """Whether another instance of the role is wanted, or nobody said how many are."""
    target = book.targets.get(role.value)
    return target is None or len(book.standing(role)) < target


def switchable(node: KnownNode, role: Role) -> bool:
    """Whether the node could be that."""
    return role in (*node.report.roles, node.report.role)
