"""What each engine calls the numbers that PyMotor reads from its `/metrics`, older names included."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class EngineMetric(str, Enum):
    """A number PyMotor reads from engines."""

    RUNNING = "running"
    """Requests in the batch."""
    WAITING = "waiting"
    """Requests in the engine's queue."""
    KV_USAGE = "kv_usage"
    """Part of the KV cache in use, 0 to 1."""
    PREFIX_CACHE_QUERIES = "prefix_cache_queries"
    """Prompt tokens looked up in the engine's own cache; a counter."""
    PREFIX_CACHE_HITS = "prefix_cache_hits"
    """Of these, tokens found; a counter."""
    EXTERNAL_CACHE_QUERIES = "external_cache_queries"
    """Prompt tokens looked up through the KV connector; a counter."""
    EXTERNAL_CACHE_HITS = "external_cache_hits"
    """Of these, tokens that came from another engine or a pool; a counter."""
    PREEMPTIONS = "preemptions"
    """Requests that lost their KV to others; a counter."""


_VLLM: Mapping[EngineMetric, tuple[str, ...]] = {
    EngineMetric.RUNNING: ("vllm:num_requests_running",),
    EngineMetric.WAITING: ("vllm:num_requests_waiting",),
    EngineMetric.KV_USAGE: ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    EngineMetric.PREFIX_CACHE_QUERIES: (
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_queries",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries",
    ),
    EngineMetric.PREFIX_CACHE_HITS: (
        "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_hits",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits",
    ),
    EngineMetric.EXTERNAL_CACHE_QUERIES: ("vllm:external_prefix_cache_queries_total",),
    EngineMetric.EXTERNAL_CACHE_HITS: ("vllm:external_prefix_cache_hits_total",),
    EngineMetric.PREEMPTIONS: ("vllm:num_preemptions_total",),
}

METRIC_NAMES: Mapping[str, Mapping[EngineMetric, tuple[str, ...]]] = {
    "vllm": _VLLM,
    "sim": _VLLM,
    "sglang": {
        EngineMetric.RUNNING: ("sglang:num_running_reqs",),
        EngineMetric.WAITING: ("sglang:num_queue_reqs",),
        EngineMetric.KV_USAGE: ("sglang:token_usage",),
    },
}
"""By engine: the names of a metric in Prometheus text, today's first, then those of older versions."""


def read_metric(engine: str, metric: EngineMetric, samples: Mapping[str, float]) -> float | None:
    """The metric out of an engine's samples (name without labels → sum over its labels); None when it has none."""
    for name in METRIC_NAMES[engine].get(metric, ()):
        if name in samples:
            return samples[name]
    return None
