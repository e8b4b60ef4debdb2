"""What an engine core is made with, what a step returns, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pymotor.engines.sim.handoffs import Handoffs
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import Awaited, Handover, MediaItem, Output, Request
from pymotor.engines.sim.times import Work

Announce = Callable[[MediaItem, Request], dict[str, Any] | None]
"""What an encoder's answer says of an item besides its index; None for nothing at all."""


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
    connector_timeout_seconds: float = 30.0
    """How long a bootstrap server may take."""
    handoffs: Handoffs = field(default_factory=Handoffs)
    """How transfer parameters are read."""
    eos_token: int = 258
    lengths_only: bool = False
    """Scheduling, blocks, times and events only: nothing is computed, and answers are the same token again and again.
    For replays of long traces; without media and handoffs."""


@dataclass
class StepResult:
    """What one step brought."""

    outputs: list[Output] = field(default_factory=list)
    awaited: list[Awaited] = field(default_factory=list)
    """Requests that now wait for KV from elsewhere."""
    handovers: list[Handover] = field(default_factory=list)
    """Requests that are computed and whose KV others get; their outputs are not among `outputs`."""
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
