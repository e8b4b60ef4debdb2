"""What the fleet looks like from outside: for operators, and for the rooms that watch over faults and alarms."""

from __future__ import annotations

from pydantic import BaseModel

from pymotor.controller.draining import still_running
from pymotor.controller.fleet_book import FleetBook
from pymotor.controller.groups import Group
from pymotor.controller.nodes import KnownNode, in_order
from pymotor.fleet import EndpointState, InstanceState, Role


class EndpointView(BaseModel):
    """One engine server that takes requests."""

    id: str
    url: str
    state: EndpointState
    data_parallel_rank: int | None


class ServerView(BaseModel):
    """One engine server of a node."""

    name: str
    endpoint_id: str
    process_id: int | None
    state: EndpointState
    detail: str
    restarts: int
    running: int
    waiting: int
    kv_usage: float | None


class FaultView(BaseModel):
    """What a node found wrong."""

    code: int
    message: str
    server: str


class NodeView(BaseModel):
    """One node."""

    name: str
    job: str
    role: Role
    roles: list[Role]
    """What it could be."""
    address: str
    machine: str
    device_ids: list[str]
    instance: str
    """Empty: none."""
    node_rank: int | None
    silent: bool
    heard_seconds_ago: float
    leaving: bool
    released: bool
    withdrawn: bool
    problem: str
    servers: list[ServerView]
    faults: list[FaultView]


class InstanceView(BaseModel):
    """One instance."""

    name: str
    role: Role
    number: int
    job: str
    state: InstanceState
    since: float
    """Seconds since 1970 at which the state began."""
    fault: str
    generation: int
    nodes: list[str]
    """By rank; empty where nobody has the seat."""
    machines: list[str]
    device_ids: list[str]
    models: list[str]
    cordoned: bool
    separated: str
    drain_reason: str
    drained: bool
    drain_waits_for: str
    endpoints: list[EndpointView]


class RoleScale(BaseModel):
    """How many instances of one role there are and should be."""

    role: Role
    target: int | None
    """None: nobody asked for a number."""
    present: int
    """Those that are to stay, complete or not, but for those that are out."""
    out: int
    """Those that faults keep apart or of which a node is not heard; others may stand in for them."""
    active: int
    ending: int
    missing_instances: int
    missing_nodes: int
    """How many nodes have to be started."""
    waiting_nodes: int
    """Nodes of the role without an instance."""


def instance_view(book: FleetBook, group: Group, now: float) -> InstanceView:
    """One instance; `now` in the seconds of the core."""
    members = [book.nodes[name] for name in group.members]
    drain = group.drain
    return InstanceView(
        name=group.name,
        role=group.role,
        number=group.number,
        job=group.job,
        state=group.state,
        since=group.since + book.history.wall_ahead,
        fault=group.fault,
        generation=group.generation,
        nodes=list(group.seats),
        machines=sorted({node.report.machine for node in members if node.report.machine}),
        device_ids=[device for node in members for device in node.report.device_ids],
        models=list(group.public.models) if group.public is not None else [],
        cordoned=group.cordoned,
        separated=group.separated,
        drain_reason=drain.reason if drain is not None else "",
        drained=drain is not None and drain.done,
        drain_waits_for=still_running(book, group, now) if drain is not None and not drain.done else "",
        endpoints=[
            EndpointView(
                id=endpoint.id, url=endpoint.url, state=endpoint.state, data_parallel_rank=endpoint.data_parallel_rank
            )
            for endpoint in (group.public.endpoints if group.public is not None else ())
        ],
    )


def instance_views(book: FleetBook, now: float) -> list[InstanceView]:
    """All instances, by name."""
    return [
        instance_view(book, group, now)
        for group in sorted(book.groups.values(), key=lambda group: (group.role.value, group.number))
    ]


def node_views(book: FleetBook, now: float) -> list[NodeView]:
    """All nodes, by name."""
    return [_node_view(book, book.nodes[name], now) for name in sorted(book.nodes, key=in_order)]


def _node_view(book: FleetBook, node: KnownNode, now: float) -> NodeView:
    report, group = node.report, book.groups.get(node.instance)
    return NodeView(
        name=node.name,
        job=report.job,
        role=node.role,
        roles=list(report.roles or (report.role,)),
        address=report.address,
        machine=report.machine,
        device_ids=list(report.device_ids),
        instance=node.instance,
        node_rank=group.seats.index(node.name) if group is not None else None,
        silent=node.silent,
        heard_seconds_ago=max(0.0, now - node.heard),
        leaving=report.leaving,
        released=node.released,
        withdrawn=node.withdrawn,
        problem=report.problem,
        servers=[
            ServerView(
                name=server.name,
                endpoint_id=server.endpoint_id,
                process_id=server.process_id,
                state=server.state,
                detail=server.detail,
                restarts=server.restarts,
                running=server.running,
                waiting=server.waiting,
                kv_usage=server.kv_usage,
            )
            for server in report.servers
        ],
        faults=[FaultView(code=fault.code, message=fault.message, server=fault.server) for fault in report.faults],
    )


def scale_views(book: FleetBook) -> list[RoleScale]:
    """All roles that are there or asked for."""
    roles = {group.role for group in book.groups.values()} | {Role(role) for role in book.targets}
    roles |= {node.role for node in book.nodes.values()}
    return [_role_scale(book, role) for role in Role if role in roles]


def _role_scale(book: FleetBook, role: Role) -> RoleScale:
    staying = book.standing(role)
    target = book.targets.get(role.value)
    alike = [node for node in book.nodes.values() if node.role is role]
    size = max((node.report.nodes_per_instance for node in alike), default=1)
    waiting = [node for node in alike if node.usable]
    missing = max(0, (target if target is not None else len(staying)) - len(staying))
    empty_seats = sum(group.seats.count("") for group in staying)
    return RoleScale(
        role=role,
        target=target,
        present=len(staying),
        out=len(book.of_role(role)) - len(staying),
        active=sum(group.state is InstanceState.ACTIVE for group in staying),
        ending=sum(group.role is role and group.going for group in book.groups.values()),
        missing_instances=missing,
        missing_nodes=max(0, missing * size + empty_seats - len(waiting)),
        waiting_nodes=len(waiting),
    )
