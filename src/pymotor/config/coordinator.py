"""`motor_coordinator_config`: a request in, an answer out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pymotor.config.common import EtcdConfig, LoggingConfig, StandbyConfig
from pymotor.config.section import (
    AtLeastOne,
    Count,
    Host,
    NotNegative,
    Port,
    PortOrOff,
    Ratio,
    Seconds,
    Section,
    no_effect,
)

RequestDeployMode = Literal[
    "single_node",
    "pd_separate",
    "cdp_separate",
    "cpcd_separate",
    "pd_dual_dispatch",
    "pd_disaggregation_single_container",
]
SchedulerType = Literal["load_balance", "round_robin", "kv_cache_affinity", "prefix_hash", "session_affinity"]
HEALTH_PATHS = ("/", "/startup", "/readiness", "/liveness", "/health", "/metrics", "/docs", "/redoc", "/openapi.json")


class CoordinatorLoggingConfig(LoggingConfig):
    """Logs of the Coordinator, and a line for each request."""

    request_log: Literal["off", "text", "json"] = Field("off", description="Whether each request gets a line, and how.")
    request_log_directory: str = Field(
        "",
        description="Directory of the files with these lines, one for each worker, rotated as log_rotation_size and "
        "the keys beside it say; empty: standard error.",
    )


class DashboardConfig(Section):
    """The dashboard at the management port."""

    enable: bool = Field(True, description="Whether the management port serves /dashboard.")
    requests_per_second: NotNegative = Field(
        20.0, description="Requests that each worker follows step by step for it; 0: none."
    )


class PrometheusMetricsConfig(Section):
    """Metrics of the fleet."""

    reuse_time: Seconds = Field(3, description="Seconds for which collected metrics are reused.")
    pool_metrics_enable: bool = Field(False, description="Whether the KV pool's metrics are collected too.")
    pool_metrics_endpoint: str = Field("", description="URL of the KV pool's metrics.")


class ExceptionConfig(Section):
    """When a leg of a request is tried again, and how long a request may take."""

    max_retry: Count = Field(5, description="Further tries; the default of the next two.")
    recompute_enabled: bool = Field(True, description="Whether a broken answer is carried on elsewhere.")
    transport_max_retry: Count | None = Field(None, description="Further tries of one leg; null: max_retry.")
    recompute_max_retry: Count | None = Field(None, description="Times an answer is carried on; null: max_retry.")
    engine_failure_max_retry: Count = Field(
        1, description="Further tries after resets, time-outs and 5xx but 503: the request may be what caused them."
    )
    retry_delay: Seconds = Field(0.2, description="Seconds before the first new try, doubled each time.")
    first_token_timeout: Seconds = Field(600, description="Seconds until the first token.")
    output_token_timeout: NotNegative = Field(
        1.0,
        description="Seconds that a whole answer may take for each token it may have, beside first_token_timeout; "
        "0: only infer_timeout counts.",
    )
    infer_timeout: Seconds = Field(3600, description="Seconds for the whole request.")
    retry_budget_ratio: NotNegative = Field(
        0.2, description="Further tries of a process, as a part of its requests of the last 10 seconds."
    )
    retry_budget_floor: NotNegative = Field(10.0, description="Further tries a second that are allowed in any case.")
    recovery_buffer_bytes: Count = Field(
        1073741824, description="Bytes of request bodies that a process keeps for further tries; 0: none."
    )
    circuit_failures: Count = Field(
        5, description="Failures of an endpoint in a row that open its circuit; 0: circuits never open."
    )
    circuit_pause: Seconds = Field(1.0, description="Seconds until an open circuit is probed, doubled each time.")
    circuit_longest_pause: Seconds = Field(60.0, description="Longest pause between probes, in seconds.")


class SchedulerConfig(Section):
    """Which instances a request goes through."""

    deploy_mode: RequestDeployMode | None = Field(
        None, description="Forces the order of prefill and decode; null: by the instances and connectors present."
    )
    scheduler_type: SchedulerType = Field(
        "load_balance",
        description="How an endpoint is chosen: the least loaded, each in its turn, who has the prompt's beginning "
        "cached, by how the prompt begins, by session.",
    )
    endpoint_instance_score_weight: NotNegative = Field(
        0.05, description="Weight of the instance's load beside the endpoint's own."
    )
    kv_affinity_mode: Literal["unified", "load_gated"] = Field(
        "unified", description="One score of load and cached prefix, or the longest prefix among the least loaded."
    )
    kv_affinity_load_weight: NotNegative = Field(1.0, description="unified: weight of the load.")
    kv_affinity_overlap_credit: NotNegative = Field(1.0, description="Discount for tokens already cached.")
    kv_affinity_prefill_load_scale: NotNegative = Field(1.0, description="unified: weight of the prefill to do.")
    kv_affinity_load_gate_topn: Count = Field(
        0, description="load_gated: how many least loaded endpoints are looked at; 0: 2."
    )
    kv_affinity_load_bound: Annotated[float, Field(ge=0)] = Field(
        1.25,
        description="An endpoint whose load is above so many times the mean and the prompt gets nothing, whatever it "
        "has cached; 0: no bound.",
    )
    kv_affinity_patience: Seconds = Field(
        0.02, description="Seconds that a request waits for the KV conductor before texts are compared."
    )
    session_header: Annotated[str, Field(min_length=1)] = Field(
        "X-Session-ID", description="session_affinity: the header that names a session."
    )
    prefill_threshold: Count = Field(
        512, description="Tokens from which a prompt goes to prefill and decode where union instances run too."
    )
    tokenizer_path: str = Field(
        "",
        description="Directory with the model's tokenizer.json: what a prompt costs is then counted in its tokens; "
        "empty: estimated, which costs nothing.",
    )
    engine_load_interval: NotNegative = Field(
        0,
        description="Seconds between two readings of the engines' own load, where several Coordinators share a fleet; "
        "0: off.",
    )


class InferenceWorkersConfig(Section):
    """Processes that serve requests."""

    num_workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="How many; null: one for 2 cores, from 1 to 4."
    )
    worker_metaserver_base_port: PortOrOff = Field(
        12000, description="Port of the first worker's callback server, the next worker's is one higher; 0: any."
    )


class APIKeyConfig(Section):
    """Who may send requests, and look at the other ports."""

    enable_api_key: bool = Field(False, description="Whether a key is asked for.")
    valid_keys: list[str] = Field(default_factory=list, description="Hashes of the keys, as encryption_algorithm.")
    header_name: Annotated[str, Field(min_length=1)] = Field("Authorization", description="Header with the key.")
    key_prefix: Annotated[str, Field(min_length=1)] = Field("Bearer ", description="What stands before the key.")
    keys_file: str = Field(
        "",
        description="File of `pymotor api-key`, from the directory of user_config.json; read again when it changes.",
    )
    skip_paths: list[str] = Field(
        default_factory=lambda: [*HEALTH_PATHS, "/instances/refresh", "/favicon.ico"],
        description="Paths of the inference port that need no key, compared byte for byte.",
    )
    open_doors: list[Literal["management", "observability"]] = Field(
        default_factory=list,
        description="Ports at which anybody who reaches them may read (GET), also without enable_api_key.",
    )
    encryption_algorithm: Literal["PBKDF2_SHA256"] = Field("PBKDF2_SHA256", description="How keys are hashed.")


class RateLimitConfig(Section):
    """How many requests are let in."""

    enable_rate_limit: bool = Field(False, description="Whether requests are limited.")
    provider: Literal["simple", "olc"] = Field("simple", description="Who decides; olc: simple is used.")
    max_requests: AtLeastOne = Field(1000, description="Requests in a window, of all clients together.")
    max_tokens: AtLeastOne | None = Field(
        None, description="Tokens of prompts and answers in a window, of all clients together; null: no limit."
    )
    key_max_requests: AtLeastOne | None = Field(
        None, description="Requests in a window of each API key that has no limit of its own; null: no limit."
    )
    key_max_tokens: AtLeastOne | None = Field(None, description="Tokens in a window, likewise.")
    window_size: Seconds = Field(60, description="Seconds of a window.")
    skip_paths: list[str] = Field(
        default_factory=lambda: [*HEALTH_PATHS], description="Paths without limit, compared byte for byte."
    )
    error_message: str = Field("too many requests, please try again later", description="What the client is told.")
    error_status_code: Annotated[int, Field(ge=100, le=599)] = Field(429, description="Status the client gets.")
    olc_config_path: str = Field("", description="Directory of the olc provider's configuration.")
    scope: Any = no_effect("limits are for all clients together and for each key", instead="key_max_requests")


class EndpointLimits(Section):
    """How many requests one endpoint of a role has at a time; null: no limit."""

    encode: AtLeastOne | None = Field(None, description="Media items at one encode endpoint.")
    prefill: AtLeastOne | None = Field(
        None, description="Requests at one prefill endpoint, from its choice until decode has the KV cache."
    )
    decode: AtLeastOne | None = Field(None, description="Requests at one decode endpoint.")
    union: AtLeastOne | None = Field(None, description="Requests at one union endpoint.")


class RequestLimitConfig(Section):
    """When requests wait for room at the engines, and for how long; for all worker processes together."""

    max_running: EndpointLimits = Field(
        default_factory=EndpointLimits, description="Requests at one endpoint; more wait in the queue."
    )
    max_queued: Count = Field(1000, description="Requests that may wait; one more is answered with 429.")
    queue_timeout: Seconds = Field(60, description="Seconds a request waits before it is answered with 503.")
    media_needs_kv_room: bool = Field(
        True,
        description="Whether a request with media waits until a decode endpoint has room for its whole KV cache. Its "
        "preemption would kill the engine core of vLLM 0.32.",
    )
    max_media_items: AtLeastOne = Field(
        1024, description="Images, videos and audio clips of one request; more are answered with 400."
    )
    media_answer_tokens: AtLeastOne = Field(
        4096, description="Answer for which it keeps room there when the client states no limit."
    )
    max_requests: Any = no_effect("requests are limited for each endpoint", instead="max_running")
    single_node_max_requests: Any = no_effect("requests are limited for each endpoint", instead="max_running")


class TracerConfig(Section):
    """OpenTelemetry traces. Rates are parts of all requests, from 0 to 1."""

    endpoint: str = Field("", description="URL that takes OTLP over HTTP, with or without /v1/traces; empty: off.")
    root_sampling_rate: Ratio = Field(1.0, description="Of requests that come without a trace.")
    remote_parent_sampled: Ratio = Field(1.0, description="Of requests whose caller is sampled.")
    remote_parent_not_sampled: Ratio = Field(1.0, description="Of requests whose caller is not sampled.")
    local_parent_sampled: Ratio = Field(1.0, description="Of sampled requests, those with steps, too.")
    local_parent_not_sampled: Ratio = Field(
        1.0, description="No effect: a request that is not sampled has no steps that are."
    )


class PrefillKVEventConfig(Section):
    """Where engines tell which prefixes they hold; taken from the engine sections and kv_conductor_config."""

    conductor_service: str | None = Field(None, description="Name of the KV conductor; empty: off.")
    http_server_port: Port = Field(13333, description="Port of the KV conductor.")
    block_size: AtLeastOne = Field(128, description="Tokens of a KV block.")
    endpoint: str = Field("", description="Where engines publish, tcp://*:5557.")
    replay_endpoint: str = Field("", description="Where engines repeat what was missed, tcp://*:6667.")
    engine_type: str = Field("vLLM", description="Engine that publishes, as the conductor calls it.")
    model_path: str = Field("", description="Directory of the tokenizer.")


class AIGWConfig(Section):
    """What `/v1/models` says beside the name."""

    id: str | None = Field(None, description="Name of the model.")
    object: str = Field("model", description="Kind of object.")
    owned_by: str = Field("motor", description="Owner.")
    p_max_seqlen: AtLeastOne | None = Field(None, description="Longest prompt; null: the engine's max_model_len.")
    d_max_seqlen: AtLeastOne | None = Field(None, description="Longest sequence; null: the engine's max_model_len.")
    slo_ttft: AtLeastOne = Field(1000, description="Promised milliseconds to the first token.")
    slo_tpot: AtLeastOne = Field(50, description="Promised milliseconds for each further token.")


class CoordinatorAPIConfig(Section):
    """Where the Coordinator listens."""

    coordinator_api_host: Host | None = Field(None, description="Address to listen on; default: the pod's.")
    coordinator_api_dns: str | None = Field(None, description="Name for management.")
    coordinator_api_infer_dns: str | None = Field(None, description="Name for clients.")
    coordinator_api_obs_dns: str | None = Field(None, description="Name for metrics.")
    coordinator_api_infer_port: Port = Field(1025, description="Port for clients.")
    coordinator_api_mgmt_port: Port = Field(1026, description="Port for management.")
    coordinator_obs_port: Port = Field(1027, description="Port for metrics.")


class EncodeConfig(Section):
    """How media go through encoders."""

    forward_media: Literal["prefill", "never", "always"] = Field(
        "prefill", description="Which stages after encode get the media themselves, beside the embeddings."
    )
    fallback: Literal["inline", "fail"] = Field(
        "inline", description="When no encoder can: media go to prefill, or the request fails."
    )
    reuse_seconds: NotNegative = Field(
        60.0, description="Seconds for which an item in a data URL is known to be in the store of embeddings; 0: off."
    )
    reuse_bytes: Count = Field(67108864, description="Bytes of such items that each worker remembers at most.")
    hedge_after: NotNegative = Field(
        0.0,
        description="Seconds of silence after which another encoder gets the item: as well, or with a store instead; "
        "0: off.",
    )
    store_max_age: NotNegative = Field(
        86400.0,
        description="Seconds after which `pymotor up` removes an item from ECExampleConnector's store when nobody used "
        "it, but not before infer_timeout is over; 0: never.",
    )
    store_max_bytes: Count = Field(
        10737418240,
        description="Bytes from which it removes the least recently used items, in the same bounds; 0: no limit.",
    )
    store_collect_interval: Seconds = Field(300.0, description="Seconds between two looks at the store.")


class CORSConfig(Section):
    """Which web pages may call."""

    allow_origins: list[str] = Field(default_factory=list, description="Origins; * for any.")
    allow_methods: list[str] = Field(default_factory=lambda: ["GET", "POST", "OPTIONS"], description="Methods.")
    allow_headers: list[str] = Field(default_factory=lambda: ["*"], description="Request headers; * for any.")
    allow_credentials: bool = Field(False, description="Whether cookies may be sent.")
    max_age: Count = Field(600, description="Seconds for which a browser remembers the answer.")


class HTTPConfig(Section):
    """The HTTP server for clients."""

    server_timing: Literal["on", "off"] = Field("off", description="Whether answers name their legs and times.")
    body_limit_bytes: AtLeastOne = Field(536870912, description="Longest request body.")
    arriving_limit_bytes: AtLeastOne = Field(
        2147483648, description="Bytes that bodies still arriving at one worker may have together; beyond it 503."
    )
    header_limit_bytes: AtLeastOne = Field(65536, description="Longest request head.")
    header_timeout: Seconds = Field(30.0, description="Seconds until a request's head is there.")
    body_idle_timeout: Seconds = Field(
        60.0,
        description="Seconds of silence within a request's body, or in which a client takes nothing of its answer.",
    )
    stream_idle_timeout: Seconds = Field(600.0, description="Seconds of silence within an engine's stream.")
    stream_keepalive: NotNegative = Field(0.0, description="Seconds after which a comment keeps a stream open; 0: off.")
    trust_client_fields: bool = Field(False, description="Whether clients may name caches, embeddings and engines.")
    forward_headers: list[str] = Field(
        default_factory=list, description="Headers of clients that engines get beside those in docs/api.md."
    )
    forward_authorization: bool = Field(False, description="Whether engines get the client's Authorization.")
    engine_api_key_env: str = Field(
        "", description="Environment variable with the key of engines started with --api-key; empty: none."
    )
    cors: CORSConfig = Field(default_factory=CORSConfig, description="Which web pages may call.")


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
        default_factory=PrefillKVEventConfig, description="Where engines tell which prefixes they hold."
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
