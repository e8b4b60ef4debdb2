"""Which instances a request goes through, and when it waits for room there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pymotor.config.section import AtLeastOne, Count, HeaderName, NotNegative, Ratio, Seconds, Section, no_effect

RequestDeployMode = Literal[
    "single_node",
    "pd_separate",
    "cdp_separate",
    "cpcd_separate",
    "pd_dual_dispatch",
    "pd_disaggregation_single_container",
]
SchedulerType = Literal["load_balance", "round_robin", "kv_cache_affinity", "prefix_hash", "session_affinity"]


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
    kv_affinity_overlap_credit: Ratio = Field(
        1.0, description="Discount for tokens already cached: the part of them that counts as done."
    )
    kv_affinity_prefill_load_scale: NotNegative = Field(1.0, description="unified: weight of the prefill to do.")
    kv_affinity_load_gate_topn: Count = Field(
        0, description="load_gated: how many least loaded endpoints are looked at; 0: 2."
    )
    kv_affinity_load_bound: Annotated[float, Field(ge=0)] = Field(
        1.25,
        description="An endpoint whose load is above so many times the mean and the prompt gets nothing, whatever it "
        "has cached; 0: no bound.",
    )
    kv_affinity_patience: Annotated[float, Field(gt=0, le=60)] = Field(
        0.02, description="Seconds that a request waits for the KV conductor before texts are compared."
    )
    session_header: HeaderName = Field("X-Session-ID", description="session_affinity: the header that names a session.")
    prefill_threshold: Count = Field(
        512, description="Tokens from which a prompt goes to prefill and decode where union instances run too."
    )
    tokenizer_path: str = Field(
        "",
        description="Directory with the model's tokenizer.json, for chats also tokenizer_config.json and "
        "chat_template.jinja (where the model has one), for media config.json: what a prompt costs is then counted in "
        "its tokens; relative: to user_config.json; empty: estimated, which costs nothing; for kv_cache_affinity as "
        "the engines' model or their /tokenize tells.",
    )
    engine_load_interval: NotNegative = Field(
        0,
        description="Seconds between two readings of the engines' own load, where several Coordinators share a fleet; "
        "0: off.",
    )


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
