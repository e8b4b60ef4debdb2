"""A look at the Controller's tables: from what the core knows to a view that policies can read."""

from __future__ import annotations

from collections.abc import Mapping

from pymotor.controller.faults.cluster_watch import ClusterFaults
from pymotor.controller.faults.view import CoordinatorView, FleetView, InstanceView, NodeView, Switches
from pymotor.controller.fleet_book import FleetBook
from pymotor.controller.groups import Group
from pymotor.controller.nodes import KnownNode
from pymotor.fleet import Role


def look_at(
    book: FleetBook, now: float, *, wanted: Mapping[Role, int], faults: ClusterFaults, switches: Switches
) -> FleetView:
    """The view at `now`, in the core's seconds. `wanted`: instances by the configuration; what operators asked for
    counts before it."""
    groups = sorted(book.groups.values(), key=lambda group: (group.role.value, group.number))
    timeout = book.settings.coordinator_timeout
    return FleetView(
        now=now,
        complete=not book.listening,
        instances=tuple(_instance(book, group) for group in groups),
        spare_nodes=tuple(_node(node, node.role, "") for node in book.unseated()),
        targets={**wanted, **{Role(role): number for role, number in book.targets.items()}},
        capped=frozenset(map(Role, book.targets)),
        faults=faults.faults,
        faults_known=faults.complete,
        coordinators=tuple(
            CoordinatorView(name=name, heard=now - known.heard < timeout)
            for name, known in sorted(book.coordinators.items())
        ),
        switches=switches,
    )


def _instance(book: FleetBook, group: Group) -> InstanceView:
    members = [book.nodes[name] for name in group.members]
    public = group.public
    return InstanceView(
        name=group.name,
        role=group.role,
        state=group.state,
        since=group.since,
        nodes=tuple(_node(node, node.report.role, group.name, ignored=group.silence_ignored) for node in members),
        load=float(sum(server.running + server.waiting for node in members for server in node.report.servers)),
        separated=bool(group.separated),
        cordoned=group.cordoned,
        models=public.models if public is not None else (),
        engine=public.engine if public is not None else "",
        fault=group.fault,
    )


def _node(node: KnownNode, role: Role, instance: str, *, ignored: bool = False) -> NodeView:
    """`ignored`: its silence counts for nothing, because the Controller takes itself for the one that is cut off."""
    report = node.report
    share = report.share if report.share is not None and report.share.name == instance else None
    return NodeView(
        name=report.node,
        machine=report.machine,
        address=report.address,
        device_ids=report.device_ids,
        role=role,
        roles=report.roles,
        nodes_per_instance=report.nodes_per_instance,
        silent=node.silent and not ignored,
        endpoints=share.endpoints if share is not None else (),
        ranktable=report.ranktable,
    )
