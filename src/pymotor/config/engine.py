"""`motor_engine_*_config`: one role's engine, its options, and the NodeManager beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from pymotor.config.common import LoggingConfig
from pymotor.config.section import AtLeastOne, Count, Port, PortOrOff, Seconds, Section, no_effect

EngineType = Literal["vllm", "sglang", "sim"]
KVDialectName = Literal["pull", "callback", "paired", "store"]
ECDialectName = Literal["store", "pull", "push"]

_COMPUTED = "it is computed from motor_deploy_config and engine_config"


class NodeManagerAPIConfig(Section):
    """Where the NodeManager listens."""

    pod_ip: str | None = Field(None, description="Address of the pod; default: what the pod says.")
    node_manager_port: Port = Field(1026, description="Port of the NodeManager.")


class NodeManagerBasicConfig(Section):
    """How the NodeManager reports."""

    heartbeat_interval_seconds: Seconds = Field(3, description="Seconds between reports to the Controller.")
    job_name: Any = no_effect(_COMPUTED)
    role: Any = no_effect(_COMPUTED)
    model_name: Any = no_effect(_COMPUTED)
    device_num: Any = no_effect(_COMPUTED)
    parallel_config: Any = no_effect(_COMPUTED)
    hardware_type: Any = no_effect(_COMPUTED)
    nnodes: Any = no_effect(_COMPUTED)
    enable_multi_endpoints: Any = no_effect("it belongs in engine_config")


class EndpointConfig(Section):
    """Ports of the engine servers of a pod."""

    base_port: PortOrOff = Field(10000, description="Port of the first engine server; 0: any free one.")
    endpoint_num: Any = no_effect(_COMPUTED)
    mgmt_ports: Any = no_effect(_COMPUTED)
    service_ports: Any = no_effect(_COMPUTED)


class NodeFaultToleranceConfig(Section):
    """Faults that engines announce themselves."""

    enable_fault_tolerance: bool = Field(False, description="Whether the NodeManager listens for them.")
    zmq_pub_port: PortOrOff = Field(0, description="Port of the first engine's announcements; 0: off.")


class NodeManagerConfig(Section):
    """The NodeManager beside the engines of one pod."""

    api_config: NodeManagerAPIConfig = Field(default_factory=NodeManagerAPIConfig, description="Address.")
    basic_config: NodeManagerBasicConfig = Field(default_factory=NodeManagerBasicConfig, description="Reports.")
    endpoint_config: EndpointConfig = Field(default_factory=EndpointConfig, description="Engines' ports.")
    fault_tolerance_config: NodeFaultToleranceConfig = Field(
        default_factory=NodeFaultToleranceConfig, description="Engines' own faults."
    )
    logging_config: LoggingConfig = Field(default_factory=LoggingConfig, description="Logs.")


class HealthCheckConfig(Section):
    """When an engine counts as unhealthy."""

    health_collector_timeout: Seconds = Field(2, description="Seconds that a health check may take.")
    npu_usage_threshold: Count = Field(3, description="Percent of device use below which an engine may hang.")
    enable_virtual_inference: bool = Field(False, description="Whether a small request of our own is tried.")
    max_failure_count: AtLeastOne = Field(6, description="Failed checks in a row until it is unhealthy.")


class DeprecatedParallelConfig(Section):
    """Parallel sizes in the old `model_config`; `engine_config` has the engine's own names for them."""

    dp_size: AtLeastOne | None = Field(None, description="Data parallel size.")
    tp_size: AtLeastOne | None = Field(None, description="Tensor parallel size.")
    pp_size: AtLeastOne | None = Field(None, description="Pipeline parallel size.")
    pcp_size: AtLeastOne | None = Field(None, description="Prefill context parallel size.")
    ep_size: Any = no_effect("engines derive it; enable_ep turns expert parallelism on", instead="enable_ep")
    enable_ep: bool | None = Field(None, description="Whether expert parallelism is on.")
    dp_rpc_port: Port | None = Field(None, description="Port by which data parallel ranks meet.")
    world_size: Any = no_effect("it is the product of the sizes")
    cp_size: Any = no_effect("engines know prefill context parallelism", instead="pcp_size")
    sp_size: Any = no_effect("engines know prefill context parallelism", instead="pcp_size")


class DeprecatedModelConfig(Section):
    """The old way to name model and sizes; where `engine_config` says the same thing, that counts."""

    model_name: str | None = Field(None, description="Name that clients use.")
    model_path: str | None = Field(None, description="Directory of the weights.")
    npu_mem_utils: float | None = Field(None, gt=0, le=1, description="Part of device memory to use.")
    parallel_config: DeprecatedParallelConfig = Field(
        default_factory=DeprecatedParallelConfig, description="Parallel sizes."
    )


@dataclass(frozen=True)
class ParallelSizes:
    """How many ranks an instance has in each direction."""

    data: int
    tensor: int
    pipeline: int
    prefill_context: int

    @property
    def devices(self) -> int:
        """Devices that one instance needs."""
        return self.data * self.tensor * self.pipeline * self.prefill_context


class EngineSection(Section):
    """One role's engine and its options."""

    engine_type: EngineType = Field("vllm", description="Which engine; sim needs no accelerator.")
    engine_config: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the engine's own command line, hyphens or underscores, passed on as they are.",
    )
    deprecated_model_config: DeprecatedModelConfig | None = Field(
        None,
        alias="model_config",
        description="Old names for model and parallel sizes; write them in engine_config.",
        json_schema_extra={"deprecated": True},
    )
    motor_nodemanger_config: NodeManagerConfig = Field(
        default_factory=NodeManagerConfig, description="The NodeManager beside this role's engines."
    )
    health_check_config: HealthCheckConfig = Field(
        default_factory=HealthCheckConfig, description="When an engine counts as unhealthy."
    )
    kv_dialect: KVDialectName | None = Field(
        None, description="How KV is handed over, for a connector that PyMotor does not know."
    )
    ec_dialect: ECDialectName | None = Field(
        None, description="How embeddings are handed over, for a connector that PyMotor does not know."
    )
    enable_multi_endpoints: Any = no_effect("it belongs in engine_config")

    @property
    def options(self) -> dict[str, Any]:
        """`engine_config` with underscored keys and values as written, completed by the old `model_config`."""
        options = {option_name(key): value for key, value in self.engine_config.items()}
        for name, value in self.deprecated_options().items():
            options.setdefault(name, value)
        return options

    def written(self, name: str) -> str:
        """How the user spells an option in `engine_config`, for messages; `name` itself when it is not there."""
        return next((key for key in self.engine_config if option_name(key) == name), name)

    def deprecated_options(self) -> dict[str, Any]:
        """What the old `model_config` says, under the engine's own names."""
        old = self.deprecated_model_config
        if old is None:
            return {}
        sizes = old.parallel_config
        if self.engine_type == "sglang":
            named = {
                "served_model_name": old.model_name,
                "model_path": old.model_path,
                "mem_fraction_static": old.npu_mem_utils,
                "dp_size": sizes.dp_size,
                "tp_size": sizes.tp_size,
                "pp_size": sizes.pp_size,
                "context_parallel_size": sizes.pcp_size,
            }
        else:
            named = {
                "served_model_name": old.model_name,
                "model": old.model_path,
                "gpu_memory_utilization": old.npu_mem_utils,
                "data_parallel_size": sizes.dp_size,
                "tensor_parallel_size": sizes.tp_size,
                "pipeline_parallel_size": sizes.pp_size,
                "prefill_context_parallel_size": sizes.pcp_size,
                "enable_expert_parallel": sizes.enable_ep,
                "data_parallel_rpc_port": sizes.dp_rpc_port,
            }
        return {name: value for name, value in named.items() if value is not None}

    def parallel_sizes(self) -> ParallelSizes | None:
        """The parallel sizes of one instance; None when one of them is not a positive number."""
        sglang = self.engine_type == "sglang"
        names = SGLANG_SIZES if sglang else VLLM_SIZES
        options = self.options
        sizes = [positive_integer(options.get(name, 1)) for name in names]
        data, tensor, pipeline, context = sizes
        if data is None or tensor is None or pipeline is None or context is None:
            return None
        if sglang and options.get("enable_dp_attention"):
            data = 1  # data parallel attention divides the tensor parallel ranks, it adds none
        return ParallelSizes(data, tensor, pipeline, context)


VLLM_SIZES = (
    "data_parallel_size",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
)
SGLANG_SIZES = ("dp_size", "tp_size", "pp_size", "context_parallel_size")
VLLM_OPTIONS = (
    *VLLM_SIZES,
    "served_model_name",
    "gpu_memory_utilization",
    "data_parallel_rpc_port",
    "enable_expert_parallel",
    "max_model_len",
    "kv_transfer_config",
    "ec_transfer_config",
    "kv_events_config",
    "model_loader_extra_config",
    "profiler_config",
    "otlp_traces_endpoint",
    "enable_multi_endpoints",
    "allowed_local_media_path",
    "model",
)
"""Options of vLLM that PyMotor reads too."""
SGLANG_OPTIONS = (
    *SGLANG_SIZES,
    "served_model_name",
    "model_path",
    "mem_fraction_static",
    "disaggregation_bootstrap_port",
    "disaggregation_transfer_backend",
    "enable_multi_endpoints",
)
"""Options of SGLang that PyMotor reads too."""


def option_name(key: str) -> str:
    """An engine option as PyMotor looks it up: `max-model-len`, `--max-model-len` and `max_model_len` are one."""
    return key.lstrip("-").replace("-", "_")


def positive_integer(value: object) -> int | None:
    """The number of an integer or of digits in a string, as engine options are written; None if it is not one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if isinstance(value, int) and value > 0 else None
