"""An engine's load is read from its text, whatever else stands there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pymotor.engines.metrics_reading import EngineLoad, read_load

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="100",num_gpu_blocks_override="None"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="90",num_gpu_blocks_override="None"} 1.0
"""  # noqa: E501  as engines write it


def test_vllm_with_two_engine_cores_behind_one_server() -> None:
    assert read_load("vllm", VLLM) == EngineLoad(
        requests=6, waiting=2, kv_usage=0.375, kv_capacity_tokens=16 * 90, block_tokens=16
    )


def test_an_older_name_and_another_engine() -> None:
    assert read_load("vllm", "vllm:gpu_cache_usage_perc 0.5\n").kv_usage == 0.5
    sglang = read_load("sglang", 'sglang:num_running_reqs{a="b"} 2\nsglang:num_queue_reqs 1\nsglang:token_usage 0.1\n')
    assert (sglang.requests, sglang.kv_usage, sglang.kv_capacity_tokens) == (3, 0.1, None)
    assert read_load("unheard of", VLLM) == EngineLoad()


@given(
    st.lists(
        st.sampled_from(VLLM.splitlines(keepends=True))
        | st.text(max_size=40)
        | st.sampled_from(
            ["vllm:num_requests_running NaN\n", "vllm:num_requests_waiting -1\n", "vllm:cache_config_info{"]
        ),
        max_size=12,
    )
)
def test_nonsense_is_passed_over(pieces: list[str]) -> None:
    found = read_load("vllm", "".join(pieces))
    assert found.requests is None or found.requests >= 0
    assert found.kv_capacity_tokens is None or found.kv_capacity_tokens > 0
