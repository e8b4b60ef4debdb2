"""Events as vLLM 0.32 sends them, and prompts that ask for what they told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

BLOCK = 16
"""Tokens in a block."""
STEP_BLOCKS = 512
"""Blocks that one engine step computes for a long prompt: 8k tokens."""
VOCABULARY = 150_000


@dataclass(frozen=True)
class Message:
    """One message of one endpoint."""

    endpoint: int
    payload: bytes
    blocks: int


def tokens(seed: int, count: int) -> list[int]:
    """Token ids of a prompt; other seeds differ from the first token on."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


def block_hashes(seed: int, count: int) -> list[int]:
    """As an engine would have them for that prompt."""
    return np.random.default_rng([seed, 1]).integers(0, 1 << 64, count, np.uint64).tolist()


def stored(endpoint: int, seed: int, count: int, prompt: list[int] | None = None) -> Iterator[Message]:
    """The messages of an endpoint that computes so many blocks of a prompt."""
    prompt = prompt or tokens(seed, count * BLOCK)
    hashes = block_hashes(seed, count)
    for start in range(0, count, STEP_BLOCKS):
        end = min(count, start + STEP_BLOCKS)
        parent = hashes[start - 1] if start else None
        event = _stored_event(hashes[start:end], parent, prompt[start * BLOCK : end * BLOCK])
        yield Message(endpoint, _payload([event]), end - start)


def decoded(endpoint: int, seeds: list[int], before: int, steps: int) -> Iterator[Message]:
    """The messages of an endpoint that generates text after these prompts, which have so many blocks: in each step
    every one of them fills one block."""
    prompts = {seed: (tokens(seed, (before + steps) * BLOCK), block_hashes(seed, before + steps)) for seed in seeds}
    for place in range(before, before + steps):
        events = [
            _stored_event([hashes[place]], hashes[place - 1], prompt[place * BLOCK : (place + 1) * BLOCK])
            for prompt, hashes in prompts.values()
        ]
        yield Message(endpoint, _payload(events), len(events))


def removed(endpoint: int, seed: int, count: int) -> Iterator[Message]:
    """The messages of an endpoint that evicts a prompt, its end first, an event for each block."""
    hashes = block_hashes(seed, count)[::-1]
    for start in range(0, count, STEP_BLOCKS):
        some = hashes[start : start + STEP_BLOCKS]
        events = [{"type": "BlockRemoved", "block_hashes": [own], "medium": "GPU", "group_idx": 0} for own in some]
        yield Message(endpoint, _payload(events), len(events))


def _stored_event(hashes: list[int], parent: int | None, prompt: list[int]) -> dict[str, object]:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": prompt,
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(hashes),
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


def _payload(events: list[dict[str, object]]) -> bytes:
    return msgspec.msgpack.encode([1.0, events, None])
