"""Metric names of today and of yesterday."""

from __future__ import annotations

import pytest

from pymotor.engines.metrics_names import METRIC_NAMES, EngineMetric, read_metric


@pytest.mark.parametrize("name", ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"])
def test_an_old_name_is_read_too(name: str) -> None:
    assert read_metric("vllm", EngineMetric.KV_USAGE, {name: 0.5}) == 0.5


def test_todays_name_wins() -> None:
    both = {"vllm:gpu_cache_usage_perc": 0.1, "vllm:kv_cache_usage_perc": 0.9}
    assert read_metric("sim", EngineMetric.KV_USAGE, both) == 0.9


def test_what_is_not_there_is_none() -> None:
    assert read_metric("sglang", EngineMetric.PREEMPTIONS, {"vllm:num_preemptions_total": 1.0}) is None


@pytest.mark.parametrize("engine", sorted(METRIC_NAMES))
def test_load_is_known_of_every_engine(engine: str) -> None:
    assert {EngineMetric.RUNNING, EngineMetric.WAITING, EngineMetric.KV_USAGE} <= METRIC_NAMES[engine].keys()
