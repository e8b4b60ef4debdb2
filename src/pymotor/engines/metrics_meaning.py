"""What an engine's metrics mean where those of several engines become one: which are added up and which are not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Meaning(str, Enum):
    """How the same series of several engines become one."""

    SUM = "sum"
    MEAN = "mean"
    MOST = "most"
    LEAST = "least"
    INFO = "info"
    """Its labels say something, its value does not: each combination of labels stays."""
    NONE = "none"
    """One figure for several engines would say nothing: left out."""


CUMULATIVE = frozenset(("counter", "histogram", "summary"))
"""Types whose figures only grow while the engine lives; they are added up."""

CORE_LABELS = frozenset(("engine", "pid", "tp_rank", "pp_rank", "dp_rank", "moe_ep_rank"))
"""Which part of an engine server a series is about: vLLM's number of an engine core, SGLang's ranks."""

OF_CLIENTS = frozenset(
    f"{engine}:{name}"
    for engine in ("vllm", "sglang")
    for name in (
        "time_to_first_token_seconds",
        "time_per_output_token_seconds",
        "request_time_per_output_token_seconds",
        "inter_token_latency_seconds",
        "inter_token_latency_latency_seconds",
        "e2e_request_latency_seconds",
    )
)
"""Times that are a client's only where the answer is generated; prefill and encode have them of their own part."""

_GAUGES: Mapping[str, Meaning] = {
    "vllm:kv_cache_usage_perc": Meaning.MEAN,
    "vllm:gpu_cache_usage_perc": Meaning.MEAN,
    "vllm:cpu_cache_usage_perc": Meaning.MEAN,
    "sglang:token_usage": Meaning.MEAN,
    "sglang:swa_token_usage": Meaning.MEAN,
    "sglang:cache_hit_rate": Meaning.MEAN,
    "sglang:spec_accept_length": Meaning.MEAN,
    "sglang:utilization": Meaning.MEAN,
    "sglang:gen_throughput": Meaning.SUM,
    "process_start_time_seconds": Meaning.LEAST,
    "process_max_fds": Meaning.LEAST,
}
_MEANS = ("_perc", "_percent", "_ratio", "_usage", "_utilization", "_hit_rate", "_accept_length")


def gauge_meaning(name: str) -> Meaning:
    """The meaning of a gauge: that of its name, or of what its name ends in; others are amounts and are added up."""
    known = _GAUGES.get(name)
    if known is not None:
        return known
    if name.endswith("_info"):
        return Meaning.INFO
    if name.endswith("_created"):
        return Meaning.NONE
    if name.endswith("_max"):
        return Meaning.MOST
    return Meaning.MEAN if name.endswith(_MEANS) else Meaning.SUM
