"""The plan of an SGLang instance."""

from __future__ import annotations

from pymotor.config.engine import positive_integer
from pymotor.engines import sglang
from pymotor.engines.command_line import option_words
from pymotor.engines.devices import device_environment, take_devices
from pymotor.engines.parts import spread_of
from pymotor.engines.plan import InstancePlan, PlanError, ServerPlan
from pymotor.engines.request import PlanRequest, token_count
from pymotor.fleet import Endpoint, Instance, KVDialect, KVTransfer, Role
from pymotor.fleet.dialects import SGLANG_CONNECTOR

DEFAULT_BACKEND = "mooncake"


def plan_sglang(request: PlanRequest) -> InstancePlan:
    """Plan one instance: one server that balances its ranks itself. Raises PlanError."""
    if request.role is Role.ENCODE:
        raise PlanError("SGLang engines do not encode for others; use engine_type vllm")
    model = request.model("model_path" if "model_path" in request.options else "model")
    options = {
        key: value
        for key, value in request.options.items()
        if key not in sglang.OWN_OPTIONS | sglang.PLACED_OPTIONS | {"model", "model_path"}
    }
    host = request.host
    mode = sglang.DISAGGREGATION_MODES.get(request.role.value)
    kv: KVTransfer | None = None
    if mode is not None:
        backend = str(options.get("disaggregation_transfer_backend") or DEFAULT_BACKEND)
        stated = options.get("disaggregation_bootstrap_port")
        preferred = stated if isinstance(stated, int) else sglang.BOOTSTRAP_PORT
        options["disaggregation_mode"] = mode
        # ranks on other nodes look for it on the first, at the port they were told themselves
        bootstrap_port = host.take_port(preferred) if request.part.nodes == 1 else preferred
        options["disaggregation_bootstrap_port"] = bootstrap_port
        kv = KVTransfer(
            connector=f"{SGLANG_CONNECTOR}-{backend}",
            dialect=KVDialect(request.section.kv_dialect or KVDialect.PAIRED),
            produces=request.role is Role.PREFILL,
            consumes=request.role is Role.DECODE,
            bootstrap=f"http://{host.address_in_url}:{bootstrap_port}" if request.role is Role.PREFILL else "",
        )
    part = request.part
    stated_nodes = positive_integer(request.options.get("nnodes"))
    spread = spread_of(part, 1, request.sizes.devices, stated_nodes, server_per_rank=False)
    if part.nodes > 1:
        options["nnodes"], options["node_rank"] = part.nodes, part.node_rank
        options["dist_init_addr"] = _meeting_point(request)
    port = host.take_port(request.section.motor_nodemanger_config.endpoint_config.base_port or None)
    words = option_words({"model_path": model, **options, "host": host.address, "port": port}, sglang.STYLE)
    devices = take_devices(request)
    if host.tls is not None:
        raise PlanError("infer_tls_config is on, and TLS of SGLang's servers is not planned: set enable_tls to false")
    endpoint = Endpoint(id=f"{request.name}/0", url=f"http://{host.address_in_url}:{port}")
    server = ServerPlan(
        name=f"{request.name}-node-{part.node_rank}" if spread.headless else request.name,
        endpoint=Endpoint(id=f"{endpoint.id}/node-{part.node_rank}", url="") if spread.headless else endpoint,
        headless=spread.headless,
        argv=sglang.server_command(host.python) + words.words,
        env={**request.variables, **device_environment(request.hardware, devices)},
    )
    instance = Instance(
        name=request.name,
        role=request.role,
        models=request.served_names(model),
        engine="sglang",
        engine_version=host.engine_version,
        endpoints=() if spread.headless else (endpoint,),
        kv=kv,
        pairing=" ".join(
            (
                f"model={model}",
                f"engine=sglang-{host.engine_version}",
                f"kv_cache_dtype={options.get('kv_cache_dtype') or 'auto'}",
                f"page_size={options.get('page_size') or 'default'}",
            )
        ),
        max_model_len=token_count(options.get("context_length")),
    )
    return InstancePlan(instance=instance, servers=(server,), warnings=words.warnings)


def _meeting_point(request: PlanRequest) -> str:
    """The first node's address with the port that the user's `dist_init_addr` has."""
    _, _, stated = str(request.options.get("dist_init_addr") or "").rpartition(":")
    address = request.part.master_address
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{positive_integer(stated) or sglang.DIST_INIT_PORT}"
