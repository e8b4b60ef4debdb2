"""Several engines' metrics become one by what they mean, whichever engine and version they come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import generate_latest as latest

from prometheus_text import problems_of
from pymotor.engines.metrics_merging import Labels, merge_families, read_families, unchanged, write_families

VLLM = """\
# HELP vllm:num_requests_running Requests in the batch.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
# HELP vllm:kv_cache_usage_perc Usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.1
# HELP vllm:prompt_tokens_total Tokens.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
# HELP vllm:prompt_tokens_created Tokens.
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
# HELP vllm:cache_config_info Config.
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0"} 1.0
# HELP process_start_time_seconds Start.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1000.0
# HELP python_gc_duration_seconds A summary.
# TYPE python_gc_duration_seconds summary
python_gc_duration_seconds{quantile="0.5"} 0.2
python_gc_duration_seconds_count 4
python_gc_duration_seconds_sum 2.5
"""
OTHER = VLLM.replace("0.5\n", "0.3\n").replace('block_size="16"', 'block_size="32"').replace(" 1000.0", " 900.0")
SGLANG = """\
# HELP sglang:num_running_reqs Running.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m",tp_rank="0"} 2.0
# HELP sglang:token_usage Usage.
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="m",tp_rank="0"} 0.4
# HELP sglang:prompt_tokens_total Tokens.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 7.0
"""


def without_cores(labels: Labels) -> Labels:
    return tuple(label for label in labels if label[0] not in ("engine", "tp_rank"))


def merged(*texts: str) -> dict[str, float]:
    """The merged series, as they are written."""
    written = write_families(merge_families([(read_families(text), without_cores) for text in texts]))
    assert not problems_of(written)
    lines = [line.rsplit(" ", 1) for line in written.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in lines}


def test_each_is_merged_by_its_meaning() -> None:
    found = merged(VLLM, OTHER, SGLANG)
    assert found['vllm:num_requests_running{model_name="m"}'] == 8
    assert found['vllm:kv_cache_usage_perc{model_name="m"}'] == pytest.approx((0.5 + 0.1 + 0.3 + 0.1) / 4)
    assert found['vllm:prompt_tokens_total{model_name="m"}'] == 200
    assert found['vllm:cache_config_info{block_size="16"}'] == 1
    assert found['vllm:cache_config_info{block_size="32"}'] == 1
    assert found["process_start_time_seconds"] == 900
    assert found["python_gc_duration_seconds_count"] == 8
    assert found["python_gc_duration_seconds_sum"] == 5
    assert found['sglang:num_running_reqs{model_name="m"}'] == 2
    assert found['sglang:token_usage{model_name="m"}'] == 0.4
    assert found['sglang:prompt_tokens_total{model_name="m"}'] == 7
    assert not [series for series in found if "_created" in series or "quantile" in series]


def histogram(bounds: tuple[float, ...], values: list[float]) -> str:
    registry = CollectorRegistry()
    made = Histogram("vllm:some_seconds", "Some.", registry=registry, buckets=bounds)
    for value in values:
        made.observe(value)
    return latest(registry).decode()


@given(st.lists(st.lists(st.floats(0, 30)), min_size=1, max_size=4))
def test_histograms_become_that_of_all_values(parts: list[list[float]]) -> None:
    bounds = (0.1, 1.0, 2.5, 10.0)
    found = merged(*(histogram(bounds, values) for values in parts))
    every = [value for values in parts for value in values]
    for bound in bounds:
        assert found[f'vllm:some_seconds_bucket{{le="{bound}"}}'] == sum(value <= bound for value in every)
    assert found['vllm:some_seconds_bucket{le="+Inf"}'] == len(every)
    assert found["vllm:some_seconds_sum"] == pytest.approx(sum(every))


def test_of_different_buckets_the_common_ones_stay() -> None:
    found = merged(histogram((1.0, 5.0), [0.5, 3.0]), histogram((1.0, 2.0, 10.0), [1.5, 20.0]))
    buckets = {series: value for series, value in found.items() if "bucket" in series}
    assert buckets == {'vllm:some_seconds_bucket{le="1.0"}': 1, 'vllm:some_seconds_bucket{le="+Inf"}': 4}


def test_a_counter_of_an_old_version_gets_its_ending() -> None:
    old = "# HELP vllm:hits Hits.\n# TYPE vllm:hits counter\nvllm:hits 3.0\n"
    assert merged(old, old) == {"vllm:hits_total": 6}


def test_one_name_of_two_types_is_one_type() -> None:
    gauge = "# HELP vllm:tokens Tokens.\n# TYPE vllm:tokens gauge\nvllm:tokens 3.0\n"
    counter = "# HELP vllm:tokens Tokens.\n# TYPE vllm:tokens counter\nvllm:tokens 9.0\n"
    assert merged(gauge, counter) == {"vllm:tokens": 3}


@given(st.text(max_size=200))
def test_what_is_no_prometheus_text_is_refused_or_read(text: str) -> None:
    try:
        families = read_families(text)
    except ValueError:
        return
    write_families(merge_families([(families, unchanged)]))
