"""Run by vLLM's Python: its own KV cache, of a model with layers of several kinds, used by prompts that begin alike.

Standard input: for each cache its groups, number of blocks and a seed; standard output: for each, for each prompt, its
tokens, how many of them the cache had, and the events (msgpack, in base64) that it published before. No engine runs;
the classes are the scheduler's.
"""

from __future__ import annotations

import base64
import json
import random
import sys
from collections.abc import Iterator
from typing import Any

PROMPTS = 400
VOCABULARY = 5
"""Few, so that prompts that are drawn anew begin alike, too."""


def _group(kind: str, block_size: int, window: int) -> Any:
    import torch
    from vllm.v1 import kv_cache_interface as interface

    heads = {"block_size": block_size, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    if kind == "sliding_window":
        return interface.SlidingWindowSpec(**heads, sliding_window=window)
    return interface.FullAttentionSpec(**heads)


def _prompts(chance: random.Random) -> Iterator[list[int]]:
    """Endless: each goes on after a part of an earlier one, or is new."""
    earlier: list[list[int]] = []
    while True:
        begun = chance.choice(earlier) if earlier and chance.random() < 0.8 else []
        kept = begun[: chance.randint(0, len(begun))] if chance.random() < 0.5 else begun
        prompt = kept[:1500] + [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 200))]
        earlier = [*earlier[-12:], prompt]
        yield prompt


def main() -> None:
    """See the module."""
    json.dump([_played(**asked) for asked in json.load(sys.stdin)], sys.stdout)


def _played(groups: list[tuple[str, int, int]], blocks: int, seed: int) -> list[dict[str, Any]]:
    import msgspec
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.request import Request

    chance = random.Random(seed)
    init_none_hash(sha256)
    sizes = [size for _, size, _ in groups]
    manager = KVCacheManager(
        KVCacheConfig(
            num_blocks=blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[
                KVCacheGroupSpec([f"layer {number}"], _group(*group)) for number, group in enumerate(groups)
            ],
        ),
        max_model_len=4096,
        scheduler_block_size=max(sizes),
        hash_block_size=min(sizes),
        enable_kv_cache_events=True,
    )
    hasher = get_request_block_hasher(min(sizes), sha256)
    played: list[dict[str, Any]] = []
    running: list[Request] = []
    prompts = _prompts(chance)
    for number in range(PROMPTS):
        tokens = next(prompts)
        events = base64.b64encode(msgspec.msgpack.encode([0.0, manager.take_events(), None])).decode()
        request = Request(
            request_id=str(number),
            prompt_token_ids=tokens,
            sampling_params=SamplingParams(max_tokens=1),
            pooling_params=None,
            block_hasher=hasher,
        )
        while len(running) > chance.randrange(3):
            manager.free(running.pop(0))
        found, cached = manager.get_computed_blocks(request)[:2]
        played.append({"tokens": tokens, "cached": cached, "events": events})
        computed = cached
        while computed < len(tokens):
            step = min(chance.choice((64, 256)), len(tokens) - computed)
            first = computed == cached
            placed = manager.allocate_slots(request, step, cached if first else 0, found if first else None)
            if placed is None:
                if not running:
                    break
                manager.free(running.pop(0))
                continue
            computed += step
            request.num_computed_tokens = computed
        running.append(request)
    return played


if __name__ == "__main__":
    main()
