"""Prefill gives nodes to decode when a decode instance is lost, and gets them back when it has returned.

A decode instance that served and has been out for `scale_p2d_wait` seconds, by hardware of level L4 to L6 or because
its nodes are gone, is replaced where no spare nodes can do it: by a prefill instance whose nodes can play decode and
are as many; else, with `scale_p2d_release`, by as many prefill instances as have its nodes, which are released so that
Kubernetes starts decode in their place. One instance is replaced at a time, and the next only when it serves and a
pause has passed. The last active prefill instance always stays.

What is given back follows from the fleet alone, so that a new leader does it too: more decode than is wanted, active or
possible with spare nodes, and less prefill.
"""

from __future__ import annotations

from collections.abc import Iterable

from pymotor.controller.faults.decisions import ChangeRoles
from pymotor.controller.faults.levels import GREATEST_ENDURED, LEAST_LOST
from pymotor.controller.faults.view import Change, FleetView, InstanceView, Lost, Memory
from pymotor.fleet import InstanceState, Role


def scale_p2d(view: FleetView, memory: Memory) -> tuple[ChangeRoles, ...]:
    """One change, or none."""
    if not view.switches.scale_p2d or change_under_way(view, memory) is not None:
        return ()
    if memory.change is not None or _pausing(view, memory):
        return ()
    return _give_up(view, memory) or _give_back(view, memory)


def change_under_way(view: FleetView, memory: Memory) -> Change | None:
    """The change that was decided and has neither come about nor been given up."""
    change = memory.change
    if change is None or view.active(change.role) >= change.goal or overdue(view, change):
        return None
    return change


def overdue(view: FleetView, change: Change) -> bool:
    """Whether a change is no longer waited for."""
    return view.now - change.decided >= view.switches.scale_p2d_limit


def lost_decodes(view: FleetView, memory: Memory) -> tuple[Lost, ...]:
    """The decode instances that served and are out, those included that have left the fleet since; all of them are
    forgotten once as many as wanted are active."""
    if view.active(Role.DECODE) >= view.targets.get(Role.DECODE, 0):
        return ()
    present = {one.name: one for one in view.of_role(Role.DECODE)}
    before = {lost.name: lost for lost in memory.lost}
    known = {name: lost for name, lost in before.items() if name not in present}
    for one in present.values():
        if one.name in memory.served and _is_lost(view, one, memory):
            # Since it was seen so, not since its state: it may have been out for a passing reason before.
            new = Lost(name=one.name, nodes=memory.served[one.name], since=view.now)
            known[one.name] = before.get(one.name, new)
    return tuple(sorted(known.values(), key=lambda lost: lost.since))


def _is_lost(view: FleetView, one: InstanceView, memory: Memory) -> bool:
    if one.cordoned:
        return False
    if one.state is InstanceState.INITIAL:
        # It waits for nodes that it had.
        return len(one.nodes) < memory.served.get(one.name, 0)
    if one.state not in (InstanceState.INACTIVE, InstanceState.GONE):
        return False
    return not one.nodes or _any_silent(one) or view.level(one.nodes) >= LEAST_LOST


def _pausing(view: FleetView, memory: Memory) -> bool:
    return any(
        view.now - memory.changed[role] < view.switches.scale_p2d_pause
        for role in (Role.PREFILL, Role.DECODE)
        if role in memory.changed
    )


def _coming(view: FleetView, role: Role, memory: Memory) -> int:
    """How many will be active without anything being decided: they start, or are out for a passing reason."""
    return sum(
        one.state in (InstanceState.INITIAL, InstanceState.INACTIVE) and not _is_lost(view, one, memory)
        for one in view.of_role(role)
    )


def _give_up(view: FleetView, memory: Memory) -> tuple[ChangeRoles, ...]:
    decodes = view.active(Role.DECODE)
    wanted = view.targets.get(Role.DECODE, 0)
    waited = [one for one in lost_decodes(view, memory) if view.now - one.since >= view.switches.scale_p2d_wait]
    if not waited or decodes + _coming(view, Role.DECODE, memory) >= wanted or not _may_grow(view, Role.DECODE):
        return ()
    lost = waited[0]
    if _spare_can_replace(view, lost.nodes):
        return ()
    given = _chosen_prefills(view, lost.nodes)
    if not given or view.active(Role.PREFILL) - len(given) < 1:
        return ()
    by_switch = _takes_over(given, Role.DECODE, lost.nodes)
    names = ", ".join(one.name for one in given)
    how = "take decode over" if by_switch else "are released for decode pods"
    why = (
        f"{lost.name} is lost for {view.now - lost.since:.0f} s, {decodes} of {wanted} decode instances are active and "
        f"no spare nodes can replace it: the nodes of {names} {how}"
    )
    return (ChangeRoles(instances=_names(given), gained=Role.DECODE, by_switch=by_switch, goal=decodes + 1, why=why),)


def _give_back(view: FleetView, memory: Memory) -> tuple[ChangeRoles, ...]:
    if Role.DECODE not in view.targets:
        return ()  # nobody said how many are wanted, so none is one too many
    decodes, prefills = view.active(Role.DECODE), view.active(Role.PREFILL)
    wanted_decodes, wanted_prefills = view.targets.get(Role.DECODE, 0), view.targets.get(Role.PREFILL, 0)
    if prefills + _coming(view, Role.PREFILL, memory) >= wanted_prefills or not _may_grow(view, Role.PREFILL):
        return ()
    ready = _healthy(view, Role.DECODE)
    sizes = {len(one.nodes) for one in view.of_role(Role.PREFILL)}
    borrowed = [one for one in ready if all(node.role is Role.PREFILL for node in one.nodes)]
    able = [one for one in ready if len(one.nodes) in sizes and _takes_over([one], Role.PREFILL, len(one.nodes))]
    if decodes > wanted_decodes:
        given = borrowed[:1] or able[:1] or (ready[:1] if view.switches.scale_p2d_release else [])
    elif decodes == wanted_decodes > 1 and any(_spare_can_replace(view, len(one.nodes)) for one in borrowed[:1]):
        # Nodes that were lost are back and get no instance as long as others stand in for them.
        given = borrowed[:1]
    else:
        given = []
    if not given:
        return ()
    by_switch = bool(borrowed or able)
    how = "takes prefill over again" if by_switch else "is released for a prefill pod"
    why = (
        f"{decodes} decode instances are active where {wanted_decodes} are wanted, spare nodes "
        f"{'can' if decodes == wanted_decodes else 'need not'} replace one, and {prefills} of {wanted_prefills} "
        f"prefill instances: {given[0].name} {how}"
    )
    return (ChangeRoles(instances=_names(given), gained=Role.PREFILL, by_switch=by_switch, goal=prefills + 1, why=why),)


def _may_grow(view: FleetView, role: Role) -> bool:
    """Whether the core would form another instance of the role."""
    standing = [one for one in view.of_role(role) if not (one.separated or _any_silent(one))]
    held = sum(one.state is not InstanceState.DRAINING for one in standing)
    return role not in view.capped or held < view.targets.get(role, 0)


def _spare_can_replace(view: FleetView, nodes: int) -> bool:
    fitting = [
        node
        for node in view.spare_nodes
        if node.role is Role.DECODE and not node.silent and view.level((node,)) <= GREATEST_ENDURED
    ]
    return len(fitting) >= nodes


def _chosen_prefills(view: FleetView, nodes: int) -> list[InstanceView]:
    """Those that together have enough nodes, or none where that is not to be had."""
    ready = _healthy(view, Role.PREFILL)
    for one in ready:
        if _takes_over([one], Role.DECODE, nodes):
            return [one]
    if not view.switches.scale_p2d_release:
        return []
    chosen: list[InstanceView] = []
    for one in ready:
        chosen.append(one)
        if sum(len(one.nodes) for one in chosen) >= nodes:
            return chosen
    return []


def _healthy(view: FleetView, role: Role) -> list[InstanceView]:
    """Active instances on sound hardware: the least loaded first, of equal ones the newest."""
    ready = [
        one
        for one in view.of_role(role)
        if one.active and one.nodes and view.level(one.nodes) <= GREATEST_ENDURED and not _any_silent(one)
    ]
    return sorted(ready, key=lambda one: (one.load, -one.number))


def _any_silent(one: InstanceView) -> bool:
    return any(node.silent for node in one.nodes)


def _takes_over(given: list[InstanceView], role: Role, nodes: int) -> bool:
    """Whether the nodes of these can form an instance of that role by themselves."""
    return len(given) == 1 and len(given[0].nodes) == nodes and all(node.can_be(role) for node in given[0].nodes)


def _names(instances: Iterable[InstanceView]) -> tuple[str, ...]:
    return tuple(one.name for one in instances)
