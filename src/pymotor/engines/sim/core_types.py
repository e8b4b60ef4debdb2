"""What an engine core is made with, what a step returns, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import Output, Pull
from pymotor.engines.sim.times import Work


class EmbeddingStore(Protocol):
    """Where an encoder leaves embeddings and a consumer finds them."""

    def load(self, identifier: str) -> Words | None:
        """The embedding, or None when it is not there."""

    def save(self, identifier: str, embedding: Words) -> None:
        """Keep an embedding for other engines."""


class KVStore(Protocol):
    """Where a producer leaves the KV of prompts and a consumer finds it."""

    def load(self, tokens: Words, identifiers: tuple[str, ...]) -> Words | None:
        """KV of a block-aligned beginning of this prompt, or None."""

    def save(self, tokens: Words, identifiers: tuple[str, ...], states: Words) -> None:
        """Keep the KV of a prompt."""


@dataclass(frozen=True, kw_only=True)
class CoreOptions:
    """What an engine is started with, as far as the core cares."""

    num_blocks: int = 16_384
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8_192
    max_model_len: int = 32_768
    prefix_caching: bool = True
    encode_only: bool = False
    engine_id: str = ""
    side_channel: tuple[str, int] | None = None
    """Where others fetch this engine's KV; None when it hands none over."""
    kv_lease_seconds: float = 30.0
    eos_token: int = 258


@dataclass
class StepResult:
    """What one step brought."""

    outputs: list[Output] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    progress: bool = False
    """False when nothing could be scheduled: another step helps only after something was freed or received."""


@dataclass
class Counters:
    """Totals since the start, as vLLM's metrics name them."""

    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    external_prefix_cache_queries: int = 0
    external_prefix_cache_hits: int = 0


@dataclass(frozen=True)
class Lease:
    """Blocks kept for another engine until it fetched them or time is up."""

    blocks: tuple[int, ...]
    expires: float
