"""The plan of a vLLM instance, and of a simulated one, which takes the same command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.engines import vllm
from pymotor.engines.command_line import option_words
from pymotor.engines.devices import device_environment
from pymotor.engines.plan import InstancePlan, PlanError, ServerPlan
from pymotor.engines.request import PlanRequest, token_count
from pymotor.engines.transfer import (
    KV_PORT_CONNECTORS,
    LOOKUP_PORT_KEYS,
    Placement,
    Sizes,
    as_object,
    complete_ec,
    complete_kv,
    connectors_of,
    ec_transfer,
    kv_transfer,
)
from pymotor.fleet import Endpoint, Instance, KVDialect, KVTransfer, Role

NIXL_SIDE_PORT, EC_SIDE_PORT, MOONCAKE_BOOTSTRAP_PORT = 5600, 5601, 8998
KV_PORT, EC_PORT, DATA_PARALLEL_RPC_PORT, KV_EVENTS_PORT, KV_REPLAY_PORT = 14579, 14579, 29550, 5557, 5558
LLMDATADIST_RPC_PORT, LOOKUP_PORT = 5557, 50100
"""Preferred ports: vLLM's own defaults, or where it has none, those of the guides."""


@dataclass(frozen=True)
class _Ranks:
    """How the data parallel ranks of an instance become servers."""

    servers: int
    """Servers to start."""
    joined: bool
    """Whether they are ranks of one engine (and count up from common ports) or independent engines."""


@dataclass(frozen=True)
class _Ports:
    """First ports of an instance's ranks; None where its connectors need none. Rank r has port + r * step."""

    environment: dict[str, tuple[int, int]]
    """Variable → (first port, step)."""
    kv: int | None
    kv_step: int
    lookup: int | None
    ec: int | None
    events: int | None
    replay: int | None
    rpc: int | None


def plan_vllm(request: PlanRequest) -> InstancePlan:
    """Plan one instance. Raises PlanError."""
    model = request.model("model")
    options = dict(request.options)
    warnings: list[str] = []
    kv_config = as_object("kv_transfer_config", options.get("kv_transfer_config"))
    ec_config = as_object("ec_transfer_config", options.get("ec_transfer_config"))
    events = as_object("kv_events_config", options.get("kv_events_config"))
    _check_role(request, kv_config, ec_config)
    ranks = _ranks(request, model)
    ports = _take_ports(request, kv_config, ec_config, events, ranks)
    devices = _take_devices(request, warnings)
    completed_kv, completed_ec = _complete(request, kv_config, ec_config, ports, warnings)
    kv = kv_transfer(completed_kv, request.section.kv_dialect) if completed_kv else None
    ec = ec_transfer(completed_ec, request.section.ec_dialect) if completed_ec else None
    common = {
        key: value
        for key, value in options.items()
        if key not in vllm.OWN_OPTIONS and key not in vllm.PLACED_OPTIONS
    }
    warnings += [
        f"{key} was left out: PyMotor sets it" for key in options if key in vllm.PLACED_OPTIONS - {"model"}
    ]
    identity = f"{request.name}-{request.host.new_id()}"
    per_rank = len(devices) // ranks.servers
    servers = []
    for rank in range(ranks.servers):
        own = dict(common)
        _set_transfer(own, "kv_transfer_config", completed_kv, ports, rank, ranks, identity)
        _set_transfer(own, "ec_transfer_config", completed_ec, ports, rank, ranks, identity)
        if events is not None:
            own["kv_events_config"] = _events_config(events, ports, rank, ranks)
        own |= _rank_options(request, ranks, rank, ports)
        port = request.host.take_port(request.section.motor_nodemanger_config.endpoint_config.base_port or None)
        own |= {"host": request.host.address, "port": port}
        words = option_words(own, vllm.STYLE)
        warnings += words.warnings
        name = request.name if ranks.servers == 1 else f"{request.name}-rank-{rank}"
        servers.append(
            ServerPlan(
                name=name,
                endpoint=Endpoint(
                    id=f"{request.name}/{rank}",
                    url=f"http://{_in_url(request.host.address)}:{port}",
                    data_parallel_rank=rank if ranks.servers > 1 else None,
                ),
                argv=_command(request, model) + words.words,
                env=_environment(request, ports, ranks, rank, devices[rank * per_rank : (rank + 1) * per_rank]),
            )
        )
    instance = Instance(
        name=request.name,
        role=request.role,
        models=request.served_names(model),
        engine=request.engine,
        engine_version=request.host.engine_version if request.engine != "sim" else "",
        endpoints=tuple(server.endpoint for server in servers),
        kv=kv,
        ec=ec,
        pairing=_pairing(request, model, kv, completed_kv),
        max_model_len=token_count(options.get("max_model_len")),
        kv_capacity_tokens=_kv_capacity(options),
        allowed_local_media_path=str(options.get("allowed_local_media_path") or ""),
    )
    return InstancePlan(instance=instance, servers=tuple(servers), warnings=tuple(dict.fromkeys(warnings)))


def _check_role(
    request: PlanRequest, kv_config: Mapping[str, Any] | None, ec_config: Mapping[str, Any] | None
) -> None:
    if request.role in (Role.PREFILL, Role.DECODE) and kv_config is None:
        raise PlanError(
            f"{request.name}: engine_config has no kv_transfer_config, so prefill and decode cannot hand KV over"
        )
    if request.role is Role.ENCODE and ec_config is None:
        raise PlanError(
            f"{request.name}: engine_config has no ec_transfer_config, so its embeddings would reach nobody"
        )


def _ranks(request: PlanRequest, model: str) -> _Ranks:
    """vLLM joins the ranks of models with experts only; a dense model's ranks are independent servers."""
    if request.sizes.data == 1 or request.options.get("enable_multi_endpoints", True) is False:
        return _Ranks(servers=1, joined=True)
    experts = request.host.is_mixture_of_experts(model)
    return _Ranks(servers=request.sizes.data, joined=experts is not False)


def _take_ports(
    request: PlanRequest,
    kv_config: Mapping[str, Any] | None,
    ec_config: Mapping[str, Any] | None,
    events: Mapping[str, Any] | None,
    ranks: _Ranks,
) -> _Ports:
    sizes, host = request.sizes, request.host
    connectors = connectors_of(kv_config) if kv_config else []
    ec_connector = str(ec_config.get("ec_connector")) if ec_config else ""
    environment: dict[str, tuple[int, int]] = {}

    def take_for(variable: str, default: int, step: int = 1) -> None:
        preferred = _number(request.variables.get(variable)) or default
        environment[variable] = (host.take_ports(sizes.data * step, preferred), step)

    if any(name.startswith("Nixl") for name in connectors):
        take_for("VLLM_NIXL_SIDE_CHANNEL_PORT", NIXL_SIDE_PORT)
    if "MooncakeConnector" in connectors:
        take_for("VLLM_MOONCAKE_BOOTSTRAP_PORT", MOONCAKE_BOOTSTRAP_PORT, sizes.tensor)
    if "LLMDataDistCMgrConnector" in connectors:
        take_for("VLLM_ASCEND_LLMDD_RPC_PORT", LLMDATADIST_RPC_PORT, sizes.tensor)
    if ec_connector == "ECCPUConnector":
        take_for("VLLM_EC_SIDE_CHANNEL_PORT", EC_SIDE_PORT)
    kv_step = sizes.tensor * sizes.pipeline * sizes.prefill_context
    return _Ports(
        environment=environment,
        kv=host.take_ports(sizes.data * kv_step, _number((kv_config or {}).get("kv_port")) or KV_PORT)
        if KV_PORT_CONNECTORS & set(connectors)
        else None,
        kv_step=kv_step,
        lookup=host.take_port(LOOKUP_PORT) if LOOKUP_PORT_KEYS.keys() & set(connectors) else None,
        ec=host.take_ports(sizes.data * sizes.tensor, _number((ec_config or {}).get("ec_port")) or EC_PORT)
        if ec_connector == "ECMooncakeConnector"
        else None,
        events=host.take_ports(sizes.data, _endpoint_port(events, "endpoint") or KV_EVENTS_PORT)
        if events
        else None,
        replay=host.take_ports(sizes.data, _endpoint_port(events, "replay_endpoint") or KV_REPLAY_PORT)
        if events and events.get("replay_endpoint")
        else None,
        rpc=host.take_port(_number(request.options.get("data_parallel_rpc_port")) or DATA_PARALLEL_RPC_PORT)
        if sizes.data > 1 and ranks.joined
        else None,
    )


def _take_devices(request: PlanRequest, warnings: list[str]) -> tuple[int, ...]:
    if request.hardware == "cpu":
        return ()
    wanted = request.sizes.devices
    devices = request.host.take_devices(wanted)
    if len(devices) < wanted:
        raise PlanError(
            f"{request.name}: the parallel sizes need {wanted} devices and {len(devices)} are left on this host"
        )
    stated = request.user.devices_per_pod(request.role.value) * request.user.pods_per_instance(request.role.value)
    if stated > wanted:
        warnings.append(f"{stated} devices are stated and the parallel sizes use {wanted}")
    return devices


def _complete(
    request: PlanRequest,
    kv_config: Mapping[str, Any] | None,
    ec_config: Mapping[str, Any] | None,
    ports: _Ports,
    warnings: list[str],
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    placement = Placement(
        role=request.role,
        engine=request.engine,
        engine_version=request.host.engine_version if request.engine != "sim" else "",
        prefill_sizes=_sizes_of(request, "prefill"),
        decode_sizes=_sizes_of(request, "decode"),
        kv_port=ports.kv,
        lookup_port=ports.lookup,
        ec_port=ports.ec,
        address=request.host.address,
        shared_directory=str(request.host.shared_directory or ""),
    )
    kv = complete_kv(kv_config, placement) if kv_config is not None else None
    ec = complete_ec(ec_config, placement) if ec_config is not None else None
    warnings += [*(kv.warnings if kv else ()), *(ec.warnings if ec else ())]
    return (kv.config if kv else None), (ec.config if ec else None)


def _sizes_of(request: PlanRequest, role: str) -> Sizes | None:
    section = request.user.engine_section(role)
    sizes = section.parallel_sizes() if section else None
    return Sizes(sizes.data, sizes.tensor, sizes.pipeline) if sizes else None


def _set_transfer(
    options: dict[str, Any],
    name: str,
    config: dict[str, Any] | None,
    ports: _Ports,
    rank: int,
    ranks: _Ranks,
    identity: str,
) -> None:
    """A rank's own transfer setting: engines remember each other by `engine_id`, so nobody shares one."""
    if config is None:
        return
    own = {**config, "engine_id": identity if ranks.servers == 1 else f"{identity}-{rank}"}
    if name == "kv_transfer_config" and ports.kv is not None and not ranks.joined:
        own = _with_kv_port(own, ports.kv + rank * ports.kv_step)
    options[name] = own


def _with_kv_port(config: dict[str, Any], port: int) -> dict[str, Any]:
    changed = dict(config)
    if changed.get("kv_connector") in KV_PORT_CONNECTORS:
        changed["kv_port"] = port
    extra = changed.get("kv_connector_extra_config")
    if isinstance(extra, dict) and isinstance(extra.get("connectors"), list):
        children = [_with_kv_port(child, port) for child in extra["connectors"]]
        changed["kv_connector_extra_config"] = {**extra, "connectors": children}
    return changed


def _events_config(events: dict[str, Any], ports: _Ports, rank: int, ranks: _Ranks) -> dict[str, Any]:
    changed = dict(events)
    shift = 0 if ranks.joined else rank
    if ports.events is not None:
        changed["endpoint"] = _with_port(str(events.get("endpoint") or "tcp://*:5557"), ports.events + shift)
    if ports.replay is not None:
        changed["replay_endpoint"] = _with_port(str(events["replay_endpoint"]), ports.replay + shift)
    return changed


def _rank_options(request: PlanRequest, ranks: _Ranks, rank: int, ports: _Ports) -> dict[str, Any]:
    if ranks.servers == 1:
        return {"data_parallel_rpc_port": ports.rpc} if ports.rpc is not None else {}
    if not ranks.joined:
        return {"data_parallel_size": None, "data_parallel_rpc_port": None}
    return {
        "data_parallel_rank": rank,
        "data_parallel_address": request.host.address,
        "data_parallel_rpc_port": ports.rpc,
    }


def _environment(
    request: PlanRequest, ports: _Ports, ranks: _Ranks, rank: int, devices: tuple[int, ...]
) -> dict[str, str]:
    defaults = vllm.CPU_ENVIRONMENT if request.engine == "vllm" and request.hardware == "cpu" else {}
    forced = device_environment(request.hardware, devices)
    for variable, (first, step) in ports.environment.items():
        forced[variable] = str(first if ranks.joined else first + rank * step)
        if variable.endswith("_SIDE_CHANNEL_PORT"):
            forced[variable.removesuffix("_PORT") + "_HOST"] = request.host.address
    return {**defaults, **request.variables, **forced}


def _command(request: PlanRequest, model: str) -> tuple[str, ...]:
    if request.engine == "sim":
        return (sys.executable, "-m", "pymotor", "sim-engine", "serve", model)
    return vllm.server_command(request.host.python, model)


def _pairing(request: PlanRequest, model: str, kv: KVTransfer | None, kv_config: dict[str, Any] | None) -> str:
    """Equal where KV made by one can be read by the other."""
    options = request.options
    parts = [
        f"model={model}",
        f"engine={request.engine}-{request.host.engine_version}".rstrip("-"),
        f"dtype={options.get('dtype') or 'auto'}",
        f"kv_cache_dtype={options.get('kv_cache_dtype') or 'auto'}",
        f"block_size={options.get('block_size') or 'default'}",
    ]
    if kv is not None and kv_config is not None:
        parts.append(f"connector={kv.connector}")
        store = (kv_config.get("kv_connector_extra_config") or {}).get("shared_storage_path")
        if kv.dialect is KVDialect.STORE and store:
            parts.append(f"store={store}")
    return " ".join(parts)


def _kv_capacity(options: Mapping[str, Any]) -> int | None:
    blocks, block = _number(options.get("num_gpu_blocks_override")), _number(options.get("block_size"))
    return blocks * block if blocks and block else None


def _number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None


def _endpoint_port(events: Mapping[str, Any] | None, key: str) -> int | None:
    match = re.search(r":(\d+)$", str((events or {}).get(key) or ""))
    return int(match.group(1)) if match else None


def _with_port(endpoint: str, port: int) -> str:
    return re.sub(r":\d+$", f":{port}", endpoint)


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
