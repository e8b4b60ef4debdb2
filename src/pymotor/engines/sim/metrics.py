"""Metrics under vLLM's names, with its labels `model_name` and `engine`."""

from __future__ import annotations

from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.requests import Output
from pymotor.telemetry.metrics import CounterChild, Family, HistogramChild, MetricsDump, Registry, Sample, render

_LABELS = ("model_name", "engine")
_TOKEN_BOUNDS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class Timing:
    """When a request did what, in the loop's seconds."""

    __slots__ = ("first_token", "last_token", "submitted", "tokens")

    def __init__(self, submitted: float) -> None:
        self.submitted = submitted
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.tokens = 0


class EngineMetrics:
    """The figures of one engine."""

    def __init__(self, model_name: str) -> None:
        self._labels = (model_name, "0")
        self._registry = Registry()
        seconds, tokens = self._seconds, self._tokens
        self._prompt_tokens = self._counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.")
        self._generation_tokens = self._counter("vllm:generation_tokens_total", "Number of generation tokens.")
        self._success = self._registry.counter(
            "vllm:request_success_total", "Count of finished requests.", (*_LABELS, "finished_reason")
        )
        for reason in ("stop", "length", "abort", "error"):
            self._success.child(*self._labels, reason)
        self._first_token = seconds("vllm:time_to_first_token_seconds", "Time to first token.")
        self._between = seconds("vllm:inter_token_latency_seconds", "Time between two tokens.")
        self._per_token = seconds("vllm:request_time_per_output_token_seconds", "Mean time per output token.")
        self._whole = seconds("vllm:e2e_request_latency_seconds", "Time of a request from end to end.")
        self._queue = seconds("vllm:request_queue_time_seconds", "Time until a request was in a batch.")
        self._prefill = seconds("vllm:request_prefill_time_seconds", "Time until a request's first token.")
        self._decode = seconds("vllm:request_decode_time_seconds", "Time from first to last token.")
        self._request_prompt = tokens("vllm:request_prompt_tokens", "Prompt tokens of a request.")
        self._request_output = tokens("vllm:request_generation_tokens", "Generated tokens of a request.")

    def observe(self, timing: Timing, output: Output, now: float) -> None:
        """One output, at its time."""
        if output.token is not None:
            timing.tokens += 1
            self._generation_tokens.add()
            if timing.first_token is None:
                timing.first_token = now
                self._prompt_tokens.add(len(output.request.tokens))
                self._first_token.observe(now - timing.submitted)
            elif timing.last_token is not None:
                self._between.observe(now - timing.last_token)
            timing.last_token = now
        if output.finish_reason is not None:
            self._finished(timing, output, now)

    def aborted(self) -> None:
        """A client went away."""
        self._success.child(*self._labels, "abort").add()

    def _finished(self, timing: Timing, output: Output, now: float) -> None:
        reason = output.finish_reason or "stop"
        self._success.child(*self._labels, "error" if reason == "dead" else reason).add()
        self._whole.observe(now - timing.submitted)
        scheduled = output.request.scheduled
        self._queue.observe((now if scheduled is None else scheduled) - timing.submitted)
        self._request_prompt.observe(len(output.request.tokens))
        self._request_output.observe(timing.tokens)
        if timing.first_token is not None:
            self._prefill.observe(timing.first_token - timing.submitted)
            self._decode.observe(now - timing.first_token)
            if timing.tokens > 1:
                self._per_token.observe((now - timing.first_token) / (timing.tokens - 1))

    def render(self, core: EngineCore) -> str:
        """The Prometheus text, with the core's own figures as they are now."""
        totals = core.counters
        pool, cache = core.pool, core.encoder_cache
        families = [
            self._gauge("vllm:num_requests_running", "Requests in execution batches.", len(core.running)),
            self._gauge(
                "vllm:num_requests_waiting", "Requests waiting to be processed.", len(core.waiting) + len(core.fetching)
            ),
            self._by_label(
                "vllm:num_requests_waiting_by_reason",
                "gauge",
                "reason",
                {"capacity": len(core.waiting), "deferred": len(core.fetching)},
            ),
            self._gauge("vllm:kv_cache_usage_perc", "KV-cache usage; 1 is all.", pool.used_count / pool.count),
            self._total("vllm:prefix_cache_queries_total", totals.prefix_cache_queries),
            self._total("vllm:prefix_cache_hits_total", totals.prefix_cache_hits),
            self._total("vllm:external_prefix_cache_queries_total", totals.external_prefix_cache_queries),
            self._total("vllm:external_prefix_cache_hits_total", totals.external_prefix_cache_hits),
            self._total("vllm:mm_cache_queries_total", cache.queries),
            self._total("vllm:mm_cache_hits_total", cache.hits),
            self._total("vllm:num_preemptions_total", totals.preemptions),
            Family(
                name="vllm:cache_config_info",
                kind="gauge",
                help="Information of the LLMEngine CacheConfig",
                labels=("block_size", "num_gpu_blocks", "enable_prefix_caching", "engine"),
                samples=(
                    Sample(
                        (str(pool.block_size), str(pool.count), str(core.options.prefix_caching), self._labels[1]), 1.0
                    ),
                ),
            ),
        ]
        return render(MetricsDump((*families, *self._registry.dump().families)))

    def _gauge(self, name: str, help_text: str, value: float) -> Family:
        return Family(name=name, kind="gauge", help=help_text, labels=_LABELS, samples=(Sample(self._labels, value),))

    def _total(self, name: str, value: float) -> Family:
        return Family(
            name=name, kind="counter", help="As in vLLM.", labels=_LABELS, samples=(Sample(self._labels, value),)
        )

    def _by_label(self, name: str, kind: str, label: str, values: dict[str, float]) -> Family:
        samples = tuple(Sample((*self._labels, key), value) for key, value in values.items())
        return Family(name=name, kind=kind, help="As in vLLM.", labels=(*_LABELS, label), samples=samples)

    def _counter(self, name: str, help_text: str) -> CounterChild:
        return self._registry.counter(name, help_text, _LABELS).child(*self._labels)

    def _seconds(self, name: str, help_text: str) -> HistogramChild:
        return self._registry.histogram(name, help_text, _LABELS).child(*self._labels)

    def _tokens(self, name: str, help_text: str) -> HistogramChild:
        return self._registry.histogram(name, help_text, _LABELS, _TOKEN_BOUNDS).child(*self._labels)
