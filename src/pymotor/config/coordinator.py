"""`motor_coordinator_config`: a request in, an answer out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pymotor.config.access import APIKeyConfig, RateLimitConfig
from pymotor.config.common import EtcdConfig, StandbyConfig
from pymotor.config.http_server import CoordinatorAPIConfig, HTTPConfig
from pymotor.config.media import EncodeConfig
from pymotor.config.observability import (
    CoordinatorLoggingConfig,
    DashboardConfig,
    PrometheusMetricsConfig,
    TracerConfig,
)
from pymotor.config.recovery import ExceptionConfig
from pymotor.config.scheduling import RequestLimitConfig, SchedulerConfig
from pymotor.config.section import AtLeastOne, Port, PortOrOff, Section, no_effect


class InferenceWorkersConfig(Section):
    """Processes that serve requests."""

    num_workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="How many; null: one for 2 cores, from 1 to 4."
    )
    worker_metaserver_base_port: PortOrOff = Field(
        12000, description="Port of the first worker's callback server, the next worker's is one higher; 0: any."
    )


class PrefillKVEventConfig(Section):
    """The KV conductor that tells which prefixes engines hold, where it is not that of kv_conductor_config."""

    conductor_service: str | None = Field(
        None, description="Name of the KV conductor; empty: off; null: that of kv_conductor_config."
    )
    http_server_port: Port = Field(13333, description="Port of the KV conductor that conductor_service names.")
    block_size: Any = no_effect("engines tell how many tokens their blocks have")
    endpoint: Any = no_effect("engines publish where kv-events-config in their engine_config says")
    replay_endpoint: Any = no_effect("engines repeat events where kv-events-config in their engine_config says")
    engine_type: Any = no_effect("the fleet says which engines there are")
    model_path: str = Field(
        "",
        description="Directory of the tokenizer, with the files that tokenizer_path names; relative: to "
        "user_config.json.",
    )


class AIGWConfig(Section):
    """What `/v1/models` says beside the name."""

    id: str | None = Field(None, description="Name of the model.")
    object: str = Field("model", description="Kind of object.")
    owned_by: str = Field("motor", description="Owner.")
    p_max_seqlen: AtLeastOne | None = Field(None, description="Longest prompt; null: the engine's max_model_len.")
    d_max_seqlen: AtLeastOne | None = Field(None, description="Longest sequence; null: the engine's max_model_len.")
    slo_ttft: AtLeastOne = Field(1000, description="Promised milliseconds to the first token.")
    slo_tpot: AtLeastOne = Field(50, description="Promised milliseconds for each further token.")


class CoordinatorConfig(Section):
    """The Coordinator: a request in, an answer out."""

    logging_config: CoordinatorLoggingConfig = Field(default_factory=CoordinatorLoggingConfig, description="Logs.")
    prometheus_metrics_config: PrometheusMetricsConfig = Field(
        default_factory=PrometheusMetricsConfig, description="Metrics of the fleet."
    )
    dashboard_config: DashboardConfig = Field(default_factory=DashboardConfig, description="The dashboard.")
    exception_config: ExceptionConfig = Field(default_factory=ExceptionConfig, description="Retries and deadlines.")
    scheduler_config: SchedulerConfig = Field(default_factory=SchedulerConfig, description="Choice of instances.")
    inference_workers_config: InferenceWorkersConfig = Field(
        default_factory=InferenceWorkersConfig, description="Processes that serve requests."
    )
    api_key_config: APIKeyConfig = Field(default_factory=APIKeyConfig, description="Who may send requests.")
    rate_limit_config: RateLimitConfig = Field(default_factory=RateLimitConfig, description="How many requests.")
    request_limit: RequestLimitConfig = Field(
        default_factory=RequestLimitConfig, description="How many requests run at once, and which wait."
    )
    standby_config: StandbyConfig = Field(default_factory=StandbyConfig, description="Leader and standby.")
    etcd_config: EtcdConfig = Field(default_factory=EtcdConfig, description="etcd.")
    tracer_config: TracerConfig = Field(default_factory=TracerConfig, description="Traces.")
    prefill_kv_event_config: PrefillKVEventConfig = Field(
        default_factory=PrefillKVEventConfig, description="The KV conductor that is asked, and the tokenizer."
    )
    aigw: AIGWConfig | None = Field(None, description="What /v1/models says beside the name.")
    api_config: CoordinatorAPIConfig = Field(default_factory=CoordinatorAPIConfig, description="Addresses.")
    encode_config: EncodeConfig = Field(default_factory=EncodeConfig, description="Media and encoders.")
    http_config: HTTPConfig = Field(default_factory=HTTPConfig, description="The HTTP server for clients.")
    timeout_config: Any = no_effect("timeouts are in exception_config and http_config")
    aigw_model: Any = no_effect("it is called aigw", instead="aigw")
    worker_index: Any = no_effect("each worker knows its own number")
    worker_metaserver_port: Any = no_effect("ports count up from worker_metaserver_base_port")
    errors_of_old_samples: Any = no_effect("old sample files have it by mistake", alias="_errors")
    deploy_config: Any = no_effect("instances are counted in $.motor_deploy_config")
