"""What KV events look like on the wire: msgpack as vLLM writes it, in today's form and in the one before.

A message is an array of time, events and data-parallel rank. Since vLLM 0.32 an event is a map with its `type`, and
fields that have their default are left out; before, an event was an array, its type first and its fields by position
(`vllm/distributed/kv_events.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pymotor.engines.sim.cache_events import CacheEvent, Removed, Stored
from pymotor.engines.sim.kv_events_config import Form
from pymotor.engines.sim.requests import ExtraKeys

MEDIUM = "GPU"
_SPEC_KIND = "full_attention"
_LOW_64_BITS = 8

BlockHash = int | bytes


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True, kw_only=True):
    """As a map."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: Sequence[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: Sequence[ExtraKeys] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True, kw_only=True):
    """As a map."""

    block_hashes: list[BlockHash]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True):
    """As a map."""


class EventEncoder:
    """Writes messages in one form; block hashes as whole numbers or, where `hashes_as_bytes`, as they are."""

    def __init__(self, form: Form, block_size: int, *, hashes_as_bytes: bool) -> None:
        self._block_size = block_size
        self._event: Callable[[CacheEvent], object] = self._map if form == "map" else self._array
        self._hash: Callable[[bytes], BlockHash] = bytes if hashes_as_bytes else _number
        self._encoder = msgspec.msgpack.Encoder()

    def message(self, time: float, events: Sequence[CacheEvent], rank: int) -> bytes:
        """One message. `time` in seconds since 1970."""
        return self._encoder.encode([time, [self._event(event) for event in events], rank])

    def _map(self, event: CacheEvent) -> object:
        if isinstance(event, Stored):
            adapter = event.scope.adapter
            return BlockStored(
                block_hashes=[self._hash(key) for key in event.keys],
                parent_block_hash=self._parent(event),
                token_ids=event.tokens,
                block_size=self._block_size,
                lora_id=None if adapter is None else adapter.number,
                medium=MEDIUM,
                lora_name=None if adapter is None else adapter.name,
                extra_keys=event.extra_keys,
                group_idx=0,
                kv_cache_spec_kind=_SPEC_KIND,
                session_id=event.scope.session_id,
            )
        if isinstance(event, Removed):
            return BlockRemoved(block_hashes=[self._hash(event.key)], medium=MEDIUM, group_idx=0)
        return AllBlocksCleared()

    def _array(self, event: CacheEvent) -> object:
        if isinstance(event, Stored):
            adapter = event.scope.adapter
            number, name = (None, None) if adapter is None else (adapter.number, adapter.name)
            hashes = [self._hash(key) for key in event.keys]
            found = [hashes, self._parent(event), event.tokens, self._block_size, number, MEDIUM, name]
            return ["BlockStored", *found, *([event.extra_keys] if any(event.extra_keys) else [])]
        if isinstance(event, Removed):
            return ["BlockRemoved", [self._hash(event.key)], MEDIUM]
        return ["AllBlocksCleared"]

    def _parent(self, event: Stored) -> BlockHash | None:
        return None if event.parent is None else self._hash(event.parent)


def _number(key: bytes) -> int:
    """The last 64 bits, big endian."""
    return int.from_bytes(key[-_LOW_64_BITS:], "big")
