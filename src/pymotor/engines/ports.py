"""Ports of a vLLM instance beside the one for requests: what its connectors and ranks listen on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pymotor.config.engine import positive_integer
from pymotor.engines.request import PlanRequest
from pymotor.engines.transfer import BOOTSTRAP_CONNECTOR, KV_PORT_CONNECTORS, LOOKUP_PORT_KEYS, connectors_of

NIXL_SIDE_PORT = 5600
EC_SIDE_PORT = 5601
MOONCAKE_BOOTSTRAP_PORT = 8998
BOOTSTRAP_VARIABLE = "VLLM_MOONCAKE_BOOTSTRAP_PORT"
LLMDATADIST_RPC_PORT = 5557
KV_PORT = 14579
EC_PORT = 14579
LOOKUP_PORT = 50100
KV_EVENTS_PORT = 5557
KV_REPLAY_PORT = 5558
DATA_PARALLEL_RPC_PORT = 29550


@dataclass(frozen=True)
class Ranks:
    """How the data parallel ranks of an instance become servers."""

    servers: int
    """Servers to start."""
    joined: bool
    """Whether they are ranks of one engine, which count up from common ports by themselves, or engines of their
    own, which do not know of each other."""


class PortRun(NamedTuple):
    """Consecutive ports of all ranks: `step` of them for each."""

    first: int
    step: int
    counted: bool = True
    """Whether joined ranks count up from a common port by themselves."""

    def base(self, ranks: Ranks, rank: int) -> int:
        """The port that is told to this rank's server."""
        return self.first if ranks.joined and self.counted else self.port(rank)

    def port(self, rank: int) -> int:
        """The first port on which this rank listens."""
        return self.first + rank * self.step


@dataclass(frozen=True)
class InstancePorts:
    """The ports of one instance; None where its connectors need none."""

    environment: Mapping[str, PortRun]
    """Ports that engines read from environment variables, by variable."""
    kv: PortRun | None
    ec: PortRun | None
    lookup: PortRun | None
    events: PortRun | None
    replay: PortRun | None
    data_parallel_rpc: int | None


def take_ports(
    request: PlanRequest,
    kv_config: Mapping[str, Any] | None,
    ec_config: Mapping[str, Any] | None,
    events: Mapping[str, Any] | None,
    ranks: Ranks,
) -> InstancePorts:
    """Take what the instance needs from its host, by preference what the user or the engine would have chosen."""
    kv, ec = kv_config or {}, ec_config or {}
    connectors = set(connectors_of(kv)) if kv else set()
    sizes = request.sizes

    def run(step: int, *preferred: object) -> PortRun:
        wishes = (positive_integer(wish) for wish in preferred)
        wish = next((number for number in wishes if number is not None), None)
        return PortRun(request.host.take_ports(sizes.data * step, wish), step)

    environment: dict[str, PortRun] = {}
    for variable, default, step in _side_channels(connectors, str(ec.get("ec_connector")), sizes.tensor):
        taken = run(step, request.variables.get(variable), default)
        environment[variable] = taken._replace(counted=variable != BOOTSTRAP_VARIABLE)
    rank_devices = sizes.tensor * sizes.pipeline * sizes.prefill_context
    takes_lookups = bool(connectors & LOOKUP_PORT_KEYS.keys())
    publishes = events is not None and events.get("publisher") != "null"
    replays = publishes and events is not None and bool(events.get("replay_endpoint"))
    joined = sizes.data > 1 and ranks.joined
    rpc: int | None = None
    if joined and request.part.nodes > 1:
        # all nodes have to name the same one
        rpc = positive_integer(request.options.get("data_parallel_rpc_port")) or DATA_PARALLEL_RPC_PORT
    elif joined:
        rpc = run(1, request.options.get("data_parallel_rpc_port"), DATA_PARALLEL_RPC_PORT).first
    return InstancePorts(
        environment=environment,
        kv=run(rank_devices, kv.get("kv_port"), KV_PORT) if connectors & KV_PORT_CONNECTORS else None,
        ec=run(sizes.tensor, ec.get("ec_port"), EC_PORT) if ec.get("ec_connector") == "ECMooncakeConnector" else None,
        lookup=run(1, LOOKUP_PORT) if takes_lookups else None,
        events=run(1, _endpoint_port(events, "endpoint"), KV_EVENTS_PORT) if publishes else None,
        replay=run(1, _endpoint_port(events, "replay_endpoint"), KV_REPLAY_PORT) if replays else None,
        data_parallel_rpc=rpc,
    )


def events_config(events: Mapping[str, Any], ports: InstancePorts, ranks: Ranks, rank: int) -> dict[str, Any]:
    """`kv_events_config` with the ports of this rank."""
    changed = dict(events)
    if ports.events is not None:
        changed["endpoint"] = _with_port(events.get("endpoint") or "tcp://*:0", ports.events.base(ranks, rank))
    if ports.replay is not None:
        changed["replay_endpoint"] = _with_port(events["replay_endpoint"], ports.replay.base(ranks, rank))
    return changed


def _side_channels(connectors: set[str], ec_connector: str, tensor: int) -> list[tuple[str, int, int]]:
    """Variable, vLLM's default and ports for each rank, of what these connectors read from the environment."""
    wanted = []
    if any(name.startswith("Nixl") for name in connectors):
        wanted.append(("VLLM_NIXL_SIDE_CHANNEL_PORT", NIXL_SIDE_PORT, 1))
    if BOOTSTRAP_CONNECTOR in connectors:
        wanted.append((BOOTSTRAP_VARIABLE, MOONCAKE_BOOTSTRAP_PORT, tensor))
    if "LLMDataDistCMgrConnector" in connectors:
        wanted.append(("VLLM_ASCEND_LLMDD_RPC_PORT", LLMDATADIST_RPC_PORT, tensor))
    if ec_connector == "ECCPUConnector":
        wanted.append(("VLLM_EC_SIDE_CHANNEL_PORT", EC_SIDE_PORT, 1))
    return wanted


def _endpoint_port(events: Mapping[str, Any] | None, key: str) -> str | None:
    match = re.search(r":(\d+)$", str((events or {}).get(key) or ""))
    return match.group(1) if match else None


def _with_port(endpoint: object, port: int) -> str:
    return re.sub(r":\d+$", f":{port}", str(endpoint))
