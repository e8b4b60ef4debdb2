"""What is done about faults of hardware: from a view of the fleet to decisions. No I/O, no clock of its own.

Each policy is a function of the view and of what was remembered; `decide` asks all of them, and `remember` says what
has to be known at the next look. Nothing is done about levels L1 and L2: the first hurts nobody, and an engine that
is dead or unhealthy (0x1000001, 0x1000002) is restarted by its NodeManager or by a new generation.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymotor.controller.faults.decisions import ChangeRoles, Decision, Recover, Separate, Tell
from pymotor.controller.faults.levels import GREATEST_ENDURED, NETWORK_CODES, NODE_NOT_READY, FaultLevel, HardwareFault
from pymotor.controller.faults.scale_p2d import change_under_way, lost_decodes, overdue, scale_p2d
from pymotor.controller.faults.view import Change, FleetView, InstanceView, Memory
from pymotor.fleet import InstanceState, Role

_NOT_ENDING = (InstanceState.INITIAL, InstanceState.ACTIVE, InstanceState.INACTIVE)


def decide(view: FleetView, memory: Memory) -> tuple[Decision, ...]:
    """Everything that should be done now; nothing while the view is not complete. Where fault tolerance is off, only
    what a former leader separated is let back."""
    if not view.complete:
        return ()
    if not view.switches.fault_tolerance:
        why = "fault tolerance is switched off"
        return tuple(Recover(instance=one.name, why=why) for one in view.instances if one.separated)
    return (*separate_and_recover(view), *scale_p2d(view, memory), *tell(view, memory))


def separate_and_recover(view: FleetView) -> tuple[Decision, ...]:
    """Take instances out of service whose hardware is worse than L2, and let those back whose hardware is well."""
    if not view.faults_known:
        return ()
    doubted = doubted_instances(view)
    decisions: list[Decision] = []
    for instance in view.instances:
        worst = view.worst(instance.nodes)
        if worst is not None and worst.level > GREATEST_ENDURED and instance.name not in doubted:
            if not instance.separated and instance.state in _NOT_ENDING:
                decisions.append(Separate(instance=instance.name, why=str(worst)))
        elif instance.separated and instance.nodes:
            why = f"{worst} does not keep it out" if worst else "its hardware is well again"
            decisions.append(Recover(instance=instance.name, why=why))
    return tuple(decisions)


def doubted_instances(view: FleetView) -> frozenset[str]:
    """Instances against which nothing speaks but that Kubernetes calls a machine not ready, while their nodes report,
    where those are more than half of all and at least two: then rather Kubernetes is cut off than they."""
    # Counted without a look at what was decided about them, which would change with each decision.
    staying = [one for one in view.instances if one.state in _NOT_ENDING]
    doubted = frozenset(one.name for one in staying if _only_said(view, one))
    return doubted if len(doubted) >= 2 and 2 * len(doubted) > len(staying) else frozenset()


def _only_said(view: FleetView, instance: InstanceView) -> bool:
    against = [
        fault
        for fault in view.faults
        if fault.level > GREATEST_ENDURED and any(node.touched_by(fault) for node in instance.nodes)
    ]
    said = all(fault.code == NODE_NOT_READY and not fault.device for fault in against)
    return bool(against) and said and not any(node.silent for node in instance.nodes)


def tell(view: FleetView, memory: Memory) -> tuple[Tell, ...]:
    """What people should know and was not told yet."""
    return tuple(Tell(key=key, why=why) for key, why in _news(view, memory).items() if key not in memory.told)


def _news(view: FleetView, memory: Memory) -> dict[str, str]:
    """What there is to tell for as long as it lasts, by what tells one cause from another."""
    news: dict[str, str] = {}
    if view.switches.token_reinference:
        for fault in _network_faults(view):
            # Nothing is stopped for it: streams are carried on elsewhere from the tokens that have come.
            news[f"network {fault.place} {fault.code:#x}"] = (
                f"{fault}: streams that broke off are carried on by the Coordinators, nothing is stopped"
            )
    doubted = doubted_instances(view)
    if doubted:
        news["doubt"] = (
            f"Kubernetes calls the machines of {', '.join(sorted(doubted))} not ready, more than half of all "
            "instances, but their nodes report: they stay in service"
        )
    change = memory.change
    if change is not None and view.active(change.role) < change.goal and overdue(view, change):
        news[f"overdue {change.decided}"] = (
            f"{', '.join(change.leaving)} were given up {view.now - change.decided:.0f} s ago, but there are not "
            f"{change.goal} active {change.role.value} instances; this is no longer waited for"
        )
    return news


def _network_faults(view: FleetView) -> list[HardwareFault]:
    """Those that break streams and pass by themselves, where instances are."""
    nodes = [node for instance in view.instances for node in instance.nodes]
    return [
        fault
        for fault in view.faults
        if fault.level is FaultLevel.L2
        and fault.code in NETWORK_CODES
        and any(node.touched_by(fault) for node in nodes)
    ]


def remember(view: FleetView, memory: Memory, decisions: Sequence[Decision]) -> Memory:
    """What the next look has to know after these decisions were made in this view and carried out."""
    if not view.complete:
        return memory
    changed = dict(memory.changed)
    change = change_under_way(view, memory)
    if change is None and memory.change is not None:
        # The pause begins when a change has come about, so that its effect is seen before the next.
        changed[Role.PREFILL] = changed[Role.DECODE] = view.now
    for decision in decisions:
        if isinstance(decision, ChangeRoles):
            change = Change(leaving=decision.instances, role=decision.gained, goal=decision.goal, decided=view.now)
            changed[Role.PREFILL] = changed[Role.DECODE] = view.now
    decodes = view.of_role(Role.DECODE)
    lost = lost_decodes(view, memory)
    present = {one.name for one in decodes} | {one.name for one in lost}
    served = {**memory.served, **{one.name: len(one.nodes) for one in decodes if one.active}}
    told = (memory.told & _news(view, memory).keys()) | {one.key for one in decisions if isinstance(one, Tell)}
    return Memory(
        served={name: nodes for name, nodes in served.items() if name in present},
        lost=lost,
        change=change,
        changed=changed,
        told=frozenset(told),
    )
