"""What a scraper reads: names, labels and the counting itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from engine_legs import answer, chat, image, post, text
from engines_under_test import MODEL, EnginesUnderTest, metric

QUESTION = text("What is in the picture?")
GAUGES = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]
COUNTERS = [
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "num_preemptions",
]
HISTOGRAMS = [
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_queue_time_seconds",
]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes true: engines count a little after they have answered."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def test_the_format_is_that_of_prometheus(engines: EnginesUnderTest) -> None:
    response = httpx.get(f"{engines.union}/metrics", timeout=60)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("kind", ["gauge", "counter", "histogram"])
def test_names_types_and_labels(engines: EnginesUnderTest, kind: str) -> None:
    answer(post(engines.union, chat(QUESTION, max_tokens=2, ignore_eos=True)))
    names = {"gauge": GAUGES, "counter": [f"{name}_total" for name in COUNTERS], "histogram": HISTOGRAMS}[kind]
    lines = httpx.get(f"{engines.union}/metrics", timeout=60).text.splitlines()
    for name in names:
        assert f"# TYPE vllm:{name} {kind}" in lines, name
        samples = [line for line in lines if line.startswith(f"vllm:{name}") and "_created" not in line]
        assert samples, name
        assert all(f'model_name="{MODEL}"' in sample and 'engine="0"' in sample for sample in samples), name


def test_tokens_and_requests_are_counted(engines: EnginesUnderTest) -> None:
    names = {name: f"vllm:{name}_total" for name in ("prompt_tokens", "generation_tokens", "request_success")}
    before = {name: metric(engines.union, full) for name, full in names.items()}
    usage = answer(post(engines.union, chat(image(1), QUESTION, max_tokens=5, ignore_eos=True)))["usage"]
    wanted = {
        "prompt_tokens": usage["prompt_tokens"],
        "generation_tokens": usage["completion_tokens"],
        "request_success": 1,
    }
    for name, full in names.items():
        assert eventually(lambda: metric(engines.union, full) - before[name] == wanted[name]), name  # noqa: B023


def test_times_are_counted_once_for_each_request(engines: EnginesUnderTest) -> None:
    names = [f"vllm:{name}_count" for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds")]
    before = [metric(engines.union, name) for name in names]
    answer(post(engines.union, chat(QUESTION, max_tokens=3)))
    assert eventually(lambda: [metric(engines.union, name) for name in names] == [count + 1 for count in before])


def test_a_prompt_that_comes_again_is_a_cache_hit(engines: EnginesUnderTest) -> None:
    """Whole blocks only, and never the whole prompt: the last token is computed to have something to go on from."""
    body = chat(text("The same long prompt again. " * 20), max_tokens=1)
    answer(post(engines.union, body))
    hits = "vllm:prefix_cache_hits_total"
    before = metric(engines.union, hits)
    prompt_tokens = answer(post(engines.union, body))["usage"]["prompt_tokens"]
    blocks = (prompt_tokens - 1) // 128
    assert blocks > 1
    assert eventually(lambda: metric(engines.union, hits) - before == blocks * 128)


def test_an_idle_engine_runs_nothing(engines: EnginesUnderTest) -> None:
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        assert eventually(lambda: metric(engines.union, name) == 0)  # noqa: B023


def test_an_encoder_counts_the_tokens_it_got(engines: EnginesUnderTest) -> None:
    before = metric(engines.encode, "vllm:request_success_total")
    answer(post(engines.encode, chat(image(11), max_tokens=1)))
    assert eventually(lambda: metric(engines.encode, "vllm:request_success_total") == before + 1)
