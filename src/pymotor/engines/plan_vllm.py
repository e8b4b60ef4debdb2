"""The plan of a vLLM instance, and of a simulated one, which takes the same command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.config.engine import positive_integer
from pymotor.engines import vllm
from pymotor.engines.command_line import option_words
from pymotor.engines.devices import device_environment, take_devices
from pymotor.engines.parts import Spread, spread_of
from pymotor.engines.plan import InstancePlan, PlanError, ServerPlan
from pymotor.engines.ports import (
    BOOTSTRAP_VARIABLE,
    InstancePorts,
    PortRun,
    Ranks,
    events_config,
    published_events,
    publishes_locally,
    take_ports,
)
from pymotor.engines.request import PlanRequest, token_count
from pymotor.engines.transfer import (
    Placement,
    Sizes,
    as_object,
    bootstrap_server,
    complete_ec,
    complete_kv,
    ec_control_address,
    ec_transfer,
    kv_transfer,
    shared_path,
)
from pymotor.fleet import Endpoint, Instance, KVDialect, KVEvents, KVTransfer, Role
from pymotor.fleet.dialects import handing_connector


@dataclass(frozen=True)
class _Settings:
    """What is asked for besides plain options."""

    kv: Mapping[str, Any] | None
    ec: Mapping[str, Any] | None
    events: Mapping[str, Any] | None
    """`kv_transfer_config`, `ec_transfer_config` and `kv_events_config` as the user wrote them."""


@dataclass(frozen=True)
class _Layout:
    """How the instance lies on its host."""

    model: str
    ranks: Ranks
    spread: Spread
    ports: InstancePorts
    devices: tuple[int, ...]
    identity: str
    """Of this start of the instance: a restarted engine must not be taken for its predecessor."""


@dataclass(frozen=True)
class _Rank:
    """One server of the instance."""

    plan: ServerPlan
    kv: dict[str, Any] | None
    ec: dict[str, Any] | None
    """The transfer settings as they were completed."""
    kv_bootstrap: str
    ec_address: str
    """Where the gateway and other engines find the rank for a handoff."""
    warnings: tuple[str, ...]


def plan_vllm(request: PlanRequest) -> InstancePlan:
    """Plan one instance. Raises PlanError."""
    settings = _settings(request)
    model = request.model("model")
    ranks = _ranks(request, model)
    layout = _Layout(
        model=model,
        ranks=ranks,
        spread=_spread(request, ranks),
        ports=take_ports(request, settings.kv, settings.ec, settings.events, ranks),
        devices=take_devices(request),
        identity=request.part.identity or f"{request.name}-{request.host.new_id()}",
    )
    servers = [_server(request, settings, layout, rank) for rank in layout.spread.ranks]
    first = servers[0]
    kv_config, ec_config, section = first.kv, first.ec, request.section
    kv = kv_transfer(kv_config, request.role, section.kv_dialect, first.kv_bootstrap) if kv_config is not None else None
    options = request.options
    instance = Instance(
        name=request.name,
        role=request.role,
        models=tuple(dict.fromkeys((*request.served_names(model), *request.adapter_names()))),
        engine=request.engine,
        engine_version=request.engine_version,
        endpoints=tuple(server.plan.endpoint for server in servers if not server.plan.headless),
        kv=kv,
        ec=ec_transfer(ec_config, section.ec_dialect, first.ec_address) if ec_config is not None else None,
        pairing=_pairing(request, model, kv, kv_config),
        max_model_len=token_count(options.get("max_model_len")),
        kv_capacity_tokens=_kv_capacity(options),
        allowed_local_media_path=str(options.get("allowed_local_media_path") or ""),
    )
    followed = vllm.PLACED_FOR_SEVERAL_NODES if request.part.nodes > 1 else frozenset()
    warnings = [
        f"{name} was not passed on: PyMotor sets it"
        for name in options
        if name in vllm.PLACED_OPTIONS - {"model"} - followed
    ]
    warnings += [warning for server in servers for warning in server.warnings]
    return InstancePlan(
        instance=instance,
        servers=tuple(server.plan for server in servers),
        warnings=tuple(dict.fromkeys(warnings)),
        identity=layout.identity,
    )


def _settings(request: PlanRequest) -> _Settings:
    options = request.options
    settings = _Settings(
        kv=as_object("kv_transfer_config", options.get("kv_transfer_config")),
        ec=as_object("ec_transfer_config", options.get("ec_transfer_config")),
        events=as_object("kv_events_config", options.get("kv_events_config")),
    )
    if request.role in (Role.PREFILL, Role.DECODE) and settings.kv is None:
        raise PlanError("engine_config has no kv_transfer_config, so prefill and decode cannot hand KV over")
    if request.role is Role.ENCODE and settings.ec is None:
        raise PlanError("engine_config has no ec_transfer_config, so nobody gets its embeddings")
    return settings


def _ranks(request: PlanRequest, model: str) -> Ranks:
    """vLLM joins the ranks of models with experts only; those of a dense model are engines of their own."""
    if request.sizes.data == 1 or request.options.get("enable_multi_endpoints", True) is False:
        return Ranks(servers=1, joined=True)
    return Ranks(servers=request.sizes.data, joined=request.host.is_mixture_of_experts(model) is not False)


def _spread(request: PlanRequest, ranks: Ranks) -> Spread:
    sizes = request.sizes
    spread = spread_of(
        request.part,
        sizes.data,
        sizes.devices,
        positive_integer(request.options.get("nnodes")),
        server_per_rank=ranks.servers > 1,
    )
    if spread.nodes_per_rank > 1 and not ranks.joined:
        # each would have a first node of its own, and only that of the instance is known
        raise PlanError(
            "the ranks of a dense model are engines of their own, and one of them spans several nodes; set "
            "data_parallel_size 1 and ask for more instances"
        )
    return spread


def _server(request: PlanRequest, settings: _Settings, layout: _Layout, rank: int) -> _Rank:
    several = layout.ranks.servers > 1
    kv, ec, warnings = _transfer_settings(request, settings, layout, rank)
    options = {
        name: value
        for name, value in request.options.items()
        if name not in vllm.OWN_OPTIONS and name not in vllm.PLACED_OPTIONS
    }
    options |= {} if kv is None else {"kv_transfer_config": kv}
    options |= {} if ec is None else {"ec_transfer_config": ec}
    if settings.events is not None:
        options["kv_events_config"] = events_config(
            settings.events, layout.ports, layout.ranks, rank, local=publishes_locally(request)
        )
    if options.get("tool_call_parser"):
        options.setdefault("enable_auto_tool_choice", True)
    options |= _rank_options(request, layout, rank)
    tls = request.host.tls if not layout.spread.headless else None
    if tls is not None:
        if problem := tls.problem():
            raise PlanError(problem)
        options |= tls.options()
    kv_bootstrap, ec_address = _found_at(request, layout, rank, kv, ec)
    headless = layout.spread.headless
    if headless:
        port = 0  # vLLM listens on none; the simulated engine has to listen, and takes any
    else:
        port = request.host.take_port(request.section.motor_nodemanger_config.endpoint_config.base_port or None)
    command_line = option_words({**options, "host": request.host.address, "port": port}, vllm.STYLE)
    name = f"{request.name}-rank-{rank}" if several else request.name
    endpoint = Endpoint(
        id=f"{request.name}/{rank}",
        url=request.host.url(port),
        data_parallel_rank=rank if several and layout.ranks.joined else None,
        kv_bootstrap=kv_bootstrap if several else "",
        ec_address=ec_address if several else "",
        kv_events=_published_events(request, settings, layout, rank),
    )
    plan = ServerPlan(
        name=f"{name}-node-{request.part.node_rank}" if headless else name,
        endpoint=Endpoint(id=f"{endpoint.id}/node-{request.part.node_rank}", url="") if headless else endpoint,
        argv=_command(request, layout.model) + command_line.words,
        env=_environment(request, layout, rank),
        headless=headless,
        tls=tls,
    )
    return _Rank(plan, kv, ec, kv_bootstrap, ec_address, warnings + command_line.warnings)


def _published_events(request: PlanRequest, settings: _Settings, layout: _Layout, rank: int) -> tuple[KVEvents, ...]:
    """Of one server for all ranks only where they are all here: of the others nobody knows where they publish."""
    data = request.sizes.data
    behind_it = range(data if request.part.nodes == 1 or data == 1 else 0)
    return published_events(settings.events, layout.ports, layout.ranks, rank, behind_it)


def _found_at(
    request: PlanRequest, layout: _Layout, rank: int, kv: dict[str, Any] | None, ec: dict[str, Any] | None
) -> tuple[str, str]:
    """Bootstrap server and control address of the rank's server; empty where its connectors have none."""
    host, ports = request.host.address_in_url, layout.ports
    run = ports.environment.get(BOOTSTRAP_VARIABLE)
    bootstrap = bootstrap_server(kv, host, run.base(layout.ranks, rank) if run else None) if kv is not None else ""
    address = ec_control_address(ec, host, ports.ec.port(rank) if ports.ec else None) if ec is not None else ""
    return bootstrap, address


def _transfer_settings(
    request: PlanRequest, settings: _Settings, layout: _Layout, rank: int
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, tuple[str, ...]]:
    def base(run: PortRun | None) -> int | None:
        return run.base(layout.ranks, rank) if run is not None else None

    placement = Placement(
        role=request.role,
        engine=request.engine,
        engine_version=request.engine_version,
        engine_id=layout.identity if layout.ranks.servers == 1 else f"{layout.identity}-{rank}",
        prefill_sizes=_sizes_of(request, "prefill"),
        decode_sizes=_sizes_of(request, "decode"),
        kv_port=base(layout.ports.kv),
        lookup_port=base(layout.ports.lookup),
        ec_port=base(layout.ports.ec),
        address=request.host.address,
        shared_directory=request.host.shared_directory,
    )
    kv = complete_kv(settings.kv, placement) if settings.kv is not None else None
    ec = complete_ec(settings.ec, placement) if settings.ec is not None else None
    warnings = (kv.warnings if kv else ()) + (ec.warnings if ec else ())
    return (kv.config if kv else None), (ec.config if ec else None), warnings


def _sizes_of(request: PlanRequest, role: str) -> Sizes | None:
    section = request.user.engine_section(role)
    sizes = section.parallel_sizes() if section is not None else None
    return Sizes(sizes.data, sizes.tensor, sizes.pipeline) if sizes is not None else None


def _rank_options(request: PlanRequest, layout: _Layout, rank: int) -> dict[str, Any]:
    """What tells a server which rank it is; None takes an option away."""
    placed = _node_options(request, layout.spread)
    if request.sizes.data == 1:
        return placed
    if not layout.ranks.joined:
        return {"data_parallel_size": None, "data_parallel_rpc_port": None}
    placed["data_parallel_rpc_port"] = layout.ports.data_parallel_rpc
    address = request.part.master_address or request.host.address
    if layout.ranks.servers > 1:
        return {"data_parallel_rank": rank, "data_parallel_address": address, **placed}
    if request.part.nodes == 1:
        return placed
    if layout.spread.nodes_per_rank == 1:
        here = request.sizes.data // request.part.nodes
        placed["data_parallel_size_local"] = here
        placed["data_parallel_start_rank"] = here * request.part.node_rank if layout.spread.headless else None
    return {"data_parallel_address": address, **placed}


def _node_options(request: PlanRequest, spread: Spread) -> dict[str, Any]:
    """What tells a server of a rank that spans nodes which of them it is.

    vLLM counts the nodes of all data parallel ranks together, and all of them meet at the first.
    """
    placed: dict[str, Any] = {}
    if spread.nodes_per_rank > 1:
        placed["nnodes"] = request.part.nodes
        placed["node_rank"] = request.part.node_rank
        placed["master_addr"] = request.part.master_address
        placed["master_port"] = positive_integer(request.options.get("master_port")) or vllm.MASTER_PORT
    if spread.headless:
        placed["headless"] = True
    return placed


def _environment(request: PlanRequest, layout: _Layout, rank: int) -> dict[str, str]:
    """Defaults, then env.json, then what must be as planned."""
    defaults = dict(vllm.CPU_ENVIRONMENT) if request.engine == "vllm" and request.hardware == "cpu" else {}
    if request.options.get("kv_events_config") is not None and publishes_locally(request):
        defaults["VLLM_HOST_IP"] = request.host.address
    share = len(layout.devices) // len(layout.spread.ranks)
    here = rank - layout.spread.ranks.start
    planned = device_environment(request.hardware, layout.devices[here * share : (here + 1) * share])
    for variable, run in layout.ports.environment.items():
        planned[variable] = str(run.base(layout.ranks, rank))
        if variable.endswith("_SIDE_CHANNEL_PORT"):
            planned[variable.removesuffix("PORT") + "HOST"] = request.host.address
    return {**defaults, **request.variables, **planned}


def _command(request: PlanRequest, model: str) -> tuple[str, ...]:
    if request.engine == "sim":
        return (sys.executable, "-m", "pymotor", "sim-engine", "serve", model)
    return vllm.server_command(request.host.python, model)


def _pairing(request: PlanRequest, model: str, kv: KVTransfer | None, kv_config: dict[str, Any] | None) -> str:
    """Equal where one instance can read the KV that the other made."""
    options = request.options
    parts = [
        f"model={model}",
        f"engine={request.engine}-{request.engine_version}".rstrip("-"),
        f"dtype={options.get('dtype') or 'auto'}",
        f"kv_cache_dtype={options.get('kv_cache_dtype') or 'auto'}",
        f"block_size={options.get('block_size') or 'default'}",
    ]
    if kv is not None and kv_config is not None:
        parts.append(f"connector={kv.connector}")
        if kv.dialect is KVDialect.STORE:
            parts.append(f"store={shared_path(handing_connector(kv_config), 'kv')}")
    return " ".join(parts)


def _kv_capacity(options: Mapping[str, Any]) -> int | None:
    """Tokens of KV, where the user fixed the number of blocks and their size."""
    blocks = positive_integer(options.get("num_gpu_blocks_override"))
    block_size = positive_integer(options.get("block_size"))
    return blocks * block_size if blocks and block_size else None
