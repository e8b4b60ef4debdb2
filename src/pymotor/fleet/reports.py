"""What NodeManagers, the Controller and Coordinators tell each other.

Level-triggered: each message is the whole state of who sends it, so that none is needed twice and any may be lost.
All of it is JSON over HTTP; unknown keys of a newer sender are passed over. docs/fleet.md has the protocol.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from pymotor.fleet.roles import Role
from pymotor.fleet.snapshot import EndpointState, Instance

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A number that every part of PyMotor can take."""
Seconds = Annotated[float, msgspec.Meta(ge=0.0)]

ENDED_ON_PURPOSE = "it is ended"
"""The detail of a server that is gone because its node was ordered so."""


class NodeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What one node should run, as the Controller wants it; the node follows it and repeats it in its reports.

    Of two orders that with the greater `(epoch, revision)` counts.
    """

    epoch: Whole
    """Of the leader that gave it; a node refuses orders of an older epoch than it has seen."""
    revision: Whole
    """Grows with every change of any node's order within an epoch."""
    instance: str = ""
    """`<role>-<number>`; empty: run nothing, and end what runs."""
    role: Role | None = None
    """What the instance is; without an instance what the node was switched to, None where it was not."""
    number: Whole = 0
    generation: Whole = 0
    """Of the instance: when it grows, the node ends its servers, sees them gone and starts them anew."""
    node_rank: Whole = 0
    """Which of the instance's nodes this is."""
    nodes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many nodes form the instance."""
    master_address: str = ""
    """Where the other nodes reach the node of rank 0; empty before all nodes are there: then nothing is started."""
    ranktable: str = ""
    """The instance's merged device table (JSON text), where its nodes sent one each."""
    draining: bool = False
    """No new requests; running ones are finished. The engines go on until a later order."""
    drain_reason: str = ""
    cordoned: bool = False
    """No new requests until it is lifted; nothing else changes."""
    cordon_reason: str = ""
    """Why, in words for a person; may be empty."""
    separated: str = ""
    """Why faults keep the instance from serving; empty: they do not. The node changes nothing for it: it is here so
    that another leader keeps it until it knows of the faults itself."""
    released: bool = False
    """Nothing is wanted of this node any more: once its servers are gone the NodeManager ends, with status 0."""
    stop_seconds: Seconds = 10.0
    """From SIGTERM to SIGKILL, when servers are to end."""
    targets: dict[str, Whole] = {}
    """How many instances of each role are wanted, where somebody asked for another number than the configuration."""
    targets_revision: Whole = 0
    """Grows with each change of `targets`, across epochs."""

    @property
    def age(self) -> tuple[int, int]:
        """By which orders are compared."""
        return (self.epoch, self.revision)


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One engine server of a node."""

    name: str
    """`prefill-0`, or `prefill-0-rank-1` where an instance has several servers."""
    state: EndpointState
    endpoint_id: str = ""
    """Its endpoint in the fleet; empty for a headless server."""
    process_id: int | None = None
    """On its own machine; None while it does not run."""
    detail: str = ""
    """For one that does not serve why, in words for a person."""
    restarts: Whole = 0
    """How often it ended or did not start since the node follows the present generation, and so was to be started
    again."""
    running: Whole = 0
    """Requests that the engine computes."""
    waiting: Whole = 0
    """Requests in the engine's line."""
    kv_usage: float | None = None
    """Part of its KV cache that is used, 0 to 1, where the engine says it."""
    load_known: bool = False
    """Whether `running` and `waiting` were read from the engine not long ago."""


class SoftwareFault(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine or its NodeManager found wrong."""

    code: Whole
    """`0x1000001` engine dead, `0x1000002` engine unhealthy, or the engine's own."""
    message: str
    server: str = ""


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as its NodeManager sees it."""

    node: str
    """Unique among the nodes of a deployment: the pod's name, or what the user says."""
    incarnation: str
    """New with each start of the NodeManager; see `engines.plan.new_id`."""
    sequence: Whole
    """Grows with each report of an incarnation; an older one than was seen is too late and is passed over."""
    job: str
    """Nodes of one job and role form instances together."""
    role: Role
    """What it was set up for."""
    roles: tuple[Role, ...] = ()
    """What it could be, by its configuration, where the Controller may switch roles; empty: `role` alone."""
    address: str
    """Where other nodes reach it, without a port."""
    machine: str = ""
    """The Kubernetes node or host it runs on, for faults of hardware."""
    nodes_per_instance: Annotated[int, msgspec.Meta(ge=1)] = 1
    preferred_number: Whole | None = None
    """The instance number it had before or was meant to have, given to it where nobody else has it."""
    device_ids: tuple[str, ...] = ()
    """The accelerators it may use, as the hardware's fault reports call them."""
    ranktable: str = ""
    """This node's own device table (JSON text), where it has one."""
    held: NodeOrder | None = None
    """The newest order it has taken over, as it came; None: none yet."""
    share: Instance | None = None
    """Its part of the instance: as it stands in the fleet, with this node's endpoints and their present states, none
    for a headless node. None while it runs nothing."""
    servers: tuple[ServerReport, ...] = ()
    """All servers of the present order, headless ones too; empty while it runs nothing and nothing is left over."""
    started_generation: Whole | None = None
    """The generation of the servers above, None where there are none."""
    faults: tuple[SoftwareFault, ...] = ()
    problem: str = ""
    """Why the order cannot be followed (a configuration that does not fit, a missing device), in words for a person;
    empty: it can."""
    leaving: bool = False
    """It was asked to end: its instance is to be drained, then the node to be given an order without an instance."""
    wait_seconds: Seconds = 0.0
    """How long the reply may be held back while there is no other order than `held`."""


class ReportReply(msgspec.Struct, frozen=True, kw_only=True):
    """The Controller's answer to a report."""

    epoch: Whole
    order: NodeOrder | None = None
    """The node's order as it stands; None: the Controller has none yet, the node goes on with what it has."""
    report_within: Seconds = 3.0
    """By when the next report should come."""


class FleetWatch(msgspec.Struct, frozen=True, kw_only=True):
    """A Coordinator asks for a snapshot newer than it has."""

    coordinator: str
    """Unique among Coordinators, new with each start; empty: who asks sends no requests anywhere, as the KV Conductor,
    and no drain waits for it."""
    epoch: int = -1
    version: int = -1
    """Of the newest snapshot its workers have been told; -1: none."""
    in_flight: dict[str, Whole] = {}
    """Legs under way, by endpoint id, of instances that are draining in that snapshot; those without any are left
    out."""
    wait_seconds: Seconds = 0.0
    """How long the reply may be held back while there is nothing newer."""


class ControllerRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a Controller did not take a message: the body of every answer that is not 2xx."""

    error: str
    leader: str = ""
    """Where the leader is, when this Controller is not the one and knows it; a URL."""


Message = TypeVar("Message", NodeReport, ReportReply, FleetWatch, ControllerRefusal)


def encode_message(message: NodeReport | ReportReply | FleetWatch | ControllerRefusal) -> bytes:
    """The message as JSON."""
    return msgspec.json.encode(message)


def decode_message(data: bytes | str, kind: type[Message]) -> Message:
    """A message of that kind from JSON.

    Raises `msgspec.ValidationError` or `msgspec.DecodeError` when it is none.
    """
    return msgspec.json.decode(data, type=kind)


def refusal_in(body: bytes) -> ControllerRefusal:
    """Why a Controller did not take a message; empty words where the body says nothing that can be read."""
    try:
        return decode_message(body, ControllerRefusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ControllerRefusal(error="")
