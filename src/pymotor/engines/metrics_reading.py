"""An engine's load out of its `/metrics`, read without parsing the rest: histograms make up nearly all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from pymotor.engines.metrics_names import METRIC_NAMES, EngineMetric, read_metric

_WANTED = (EngineMetric.RUNNING, EngineMetric.WAITING, EngineMetric.KV_USAGE)
_CACHE_INFO = re.compile(r"^vllm:(?:cache_config_info)\{([^}]*)\}", re.MULTILINE)
_TOKENS = re.compile(r"^(?:vllm|sglang):(?:prompt|generation)_tokens(?:_total)?(?:\{[^}]*\})? (\S+)", re.MULTILINE)
_WRITTEN = re.compile(r"^(?:vllm|sglang):generation_tokens(?:_total)?(?:\{[^}]*\})? (\S+)", re.MULTILINE)
_BLOCK_SIZE = re.compile(r'\bblock_size="(\d+)"')
_BLOCKS = re.compile(r'\bnum_gpu_blocks="(\d+)"')


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine server says of itself; None: it does not say."""

    requests: int | None = None
    """In its batch and its queue."""
    waiting: int | None = None
    """Of these, in its queue."""
    kv_usage: float | None = None
    """Part of the KV cache in use, 0 to 1; the mean where several engine cores stand behind one server."""
    kv_capacity_tokens: int | None = None
    """Tokens of KV that fit into one engine core; of several cores the smallest."""
    block_tokens: int | None = None
    """Tokens of a KV block."""


def _lines_of(names: Mapping[EngineMetric, tuple[str, ...]]) -> re.Pattern[str]:
    wanted = "|".join(re.escape(name) for metric in _WANTED for name in names.get(metric, ()))
    return re.compile(rf"^({wanted})(?:\{{[^}}]*\}})? (\S+)", re.MULTILINE)


_LINES = {engine: _lines_of(names) for engine, names in METRIC_NAMES.items()}


def read_load(engine: str, text: str) -> EngineLoad:
    """The load in the Prometheus text of an engine of this kind; passes over what it cannot read."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    pattern = _LINES.get(engine)
    if pattern is None:
        return EngineLoad()
    for name, value in pattern.findall(text):
        number = _number(value)
        if number is not None:
            sums[name] = sums.get(name, 0.0) + number
            counts[name] = counts.get(name, 0) + 1
    means = {name: total / counts[name] for name, total in sums.items()}
    running = read_metric(engine, EngineMetric.RUNNING, sums)
    waiting = read_metric(engine, EngineMetric.WAITING, sums)
    capacity, block = _kv_cache(text)
    return EngineLoad(
        requests=None if running is None else int(running) + int(waiting or 0),
        waiting=None if running is None else int(waiting or 0),
        kv_usage=read_metric(engine, EngineMetric.KV_USAGE, means),
        kv_capacity_tokens=capacity,
        block_tokens=block,
    )


def tokens_so_far(text: str) -> float:
    """Tokens that an engine has read and written since its start; as long as this grows, it computes."""
    return sum(_number(value) or 0.0 for value in _TOKENS.findall(text))


def written_so_far(text: str) -> float:
    """Tokens that an engine has written since its start."""
    return sum(_number(value) or 0.0 for value in _WRITTEN.findall(text))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _kv_cache(text: str) -> tuple[int | None, int | None]:
    """Tokens that fit and tokens of a block, from vLLM's `cache_config_info`, a sample for each engine core."""
    found: list[tuple[int, int]] = []
    for labels in _CACHE_INFO.findall(text):
        block, blocks = _BLOCK_SIZE.search(labels), _BLOCKS.search(labels)
        if block is not None and blocks is not None and int(block[1]) and int(blocks[1]):
            found.append((int(block[1]) * int(blocks[1]), int(block[1])))
    return min(found) if found else (None, None)
