"""Ports of a vLLM instance beside the one for requests: what its connectors and ranks listen on."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pymotor.config.engine import positive_integer
from pymotor.engines.request import PlanRequest
from pymotor.engines.transfer import BOOTSTRAP_CONNECTOR, KV_PORT_CONNECTORS, LOOKUP_PORT_KEYS, connectors_of
from pymotor.engines.versions import version_numbers
from pymotor.fleet import KVEvents

NIXL_SIDE_PORT = 5600
EC_SIDE_PORT = 5601
MOONCAKE_BOOTSTRAP_PORT = 8998
BOOTSTRAP_VARIABLE = "VLLM_MOONCAKE_BOOTSTRAP_PORT"
LLMDATADIST_RPC_PORT = 5557
KV_PORT = 14579
EC_PORT = 14579
LOOKUP_PORT = 50100
KV_EVENTS_PORT = 5557
DEFAULT_EVENTS_ENDPOINT = "tcp://*:5557"
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
    binds = _binds((events or {}).get("endpoint") or DEFAULT_EVENTS_ENDPOINT)
    listens = publishes and binds and not publishes_locally(request)
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
        events=run(1, _endpoint_port(events, "endpoint"), KV_EVENTS_PORT) if listens else None,
        replay=run(1, _endpoint_port(events, "replay_endpoint"), KV_REPLAY_PORT) if replays else None,
        data_parallel_rpc=rpc,
    )


def events_config(
    events: Mapping[str, Any], ports: InstancePorts, ranks: Ranks, rank: int, *, local: bool
) -> dict[str, Any]:
    """`kv_events_config` with the ports of this rank; `local`: on this machine's own address only.

    vLLM listens at endpoints with a `*` and connects to all others, so that an address of one's own choice can't be
    written there; `tcp://*:0` it takes as a free port of `VLLM_HOST_IP`, which `GET /kv_event_sources` tells.
    """
    changed = dict(events)
    if events.get("publisher") == "null":
        return changed
    endpoint = events.get("endpoint") or DEFAULT_EVENTS_ENDPOINT
    if local and _binds(endpoint):
        changed["endpoint"] = "tcp://*:0"
    elif ports.events is not None:
        changed["endpoint"] = _with_port(endpoint, ports.events.base(ranks, rank))
    if ports.replay is not None:
        replay = _with_port(events["replay_endpoint"], ports.replay.base(ranks, rank))
        changed["replay_endpoint"] = replay.replace("*", "127.0.0.1") if local else replay
    return changed


def published_events(
    events: Mapping[str, Any] | None, ports: InstancePorts, ranks: Ranks, rank: int, behind_it: range
) -> tuple[KVEvents, ...]:
    """Where the ranks `behind_it` publish KV events, those that the server of `rank` answers for."""
    if events is None or ports.events is None or not events.get("enable_kv_cache_events"):
        return ()
    own = range(rank, rank + 1) if ranks.servers > 1 else behind_it
    return tuple(
        KVEvents(
            rank=number if ranks.joined else 0,
            port=ports.events.port(number),
            replay_port=ports.replay.port(number) if ports.replay is not None else None,
            topic=str(events.get("topic") or ""),
        )
        for number in own
    )


def publishes_locally(request: PlanRequest) -> bool:
    """Whether KV events can stay on the loopback address: the host has no other, and the engine takes `tcp://*:0`.

    An unknown version of vLLM counts as the newest.
    """
    version = version_numbers(request.engine_version)
    return is_loopback(request.host.address) and (not version or version >= (0, 32) or request.engine == "sim")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _binds(endpoint: object) -> bool:
    return "*" in str(endpoint) or "::" in str(endpoint)


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
