"""The KV events of an engine's ZMQ publisher, as vLLM writes them since 0.9.

A payload is the msgpack array `[timestamp, events, data parallel rank or nil]`. Since 0.32 an event is a map with
`type`, and fields that have their default value are left out. Before, it was an array: the tag, then the fields by
position, fewer of them the older the engine. Both are read, mixed if need be.
"""

from __future__ import annotations

from array import array
from typing import Any, TypeAlias

import msgspec

BlockHash: TypeAlias = int | bytes
"""The engine's own hash of a block and of all before it; nothing here depends on how it is made."""

_LOW_64_BITS = (1 << 64) - 1
_LISTS_OF_INTEGERS = msgspec.msgpack.Decoder(list[int])


class EventFormatError(ValueError):
    """A payload that is not a batch of KV events."""


class BlocksStored(msgspec.Struct, tag_field="type", tag="BlockStored", gc=False):
    """Full blocks that follow each other, now in one tier of the publisher's cache."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    """Of the block before the first; None: the first begins the prompt."""
    token_ids: msgspec.Raw
    """Read by `tokens` when needed: blocks that are told again need no look at them."""
    block_size: int
    """Tokens."""
    lora_id: int | None = None
    medium: str | None = None
    """`GPU`, `CPU`, `STORAGE`; None is the accelerator."""
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    """For each block what its hash depends on besides tokens: `(media identifier, offset from the block's start)`,
    the adapter's name, in a prompt's first block the cache salt."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    """Tokens."""
    locality: str | None = None
    """`LOCAL` or `REMOTE` to the publisher."""
    ownership: str | None = None
    """Which of several stores of a medium, where it has a name."""

    def tokens(self) -> array[int]:
        """The blocks' token ids, 4 bytes each. Raises EventFormatError when they are something else."""
        try:
            return array("I", _LISTS_OF_INTEGERS.decode(self.token_ids))
        except (msgspec.MsgspecError, OverflowError) as error:
            raise EventFormatError(f"token_ids of a BlockStored event: {error}") from error


class BlocksRemoved(msgspec.Struct, tag_field="type", tag="BlockRemoved", gc=False):
    """Blocks that are no longer in one tier of the publisher's cache."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, tag_field="type", tag="AllBlocksCleared", gc=False):
    """The publisher's cache is empty."""


class _StoredByPosition(BlocksStored, array_like=True, tag="BlockStored", gc=False):
    pass


class _RemovedByPosition(BlocksRemoved, array_like=True, tag="BlockRemoved", gc=False):
    pass


class _ClearedByPosition(AllBlocksCleared, array_like=True, tag="AllBlocksCleared", gc=False):
    pass


Event: TypeAlias = BlocksStored | BlocksRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, frozen=True, gc=False):
    """What one message told."""

    timestamp: float
    """Seconds since the epoch, by the engine's clock."""
    events: list[Event]
    data_parallel_rank: int | None = None
    unknown: int = 0
    """Events of types that are not known here; they were passed over."""

    def parts(self, most: int) -> list[EventBatch]:
        """The same in batches of at most so many events; at least one."""
        if len(self.events) <= most:
            return [self]
        first, *others = (self.events[place : place + most] for place in range(0, len(self.events), most))
        return [
            EventBatch(self.timestamp, first, self.data_parallel_rank, self.unknown),
            *(EventBatch(self.timestamp, events, self.data_parallel_rank) for events in others),
        ]


class _Batch(msgspec.Struct, array_like=True, gc=False):
    timestamp: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


class _BatchOfMaps(msgspec.Struct, array_like=True, gc=False):
    timestamp: float
    events: list[BlocksStored | BlocksRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


class _Tag(msgspec.Struct, gc=False):
    type: str


_BATCHES_OF_MAPS = msgspec.msgpack.Decoder(_BatchOfMaps)
_BATCHES = msgspec.msgpack.Decoder(_Batch)
_MAPS = msgspec.msgpack.Decoder(BlocksStored | BlocksRemoved | AllBlocksCleared)
_ARRAYS = msgspec.msgpack.Decoder(_StoredByPosition | _RemovedByPosition | _ClearedByPosition)
_TAGS = msgspec.msgpack.Decoder(_Tag)
_ANYTHING = msgspec.msgpack.Decoder(list[Any])
_KNOWN = frozenset({"BlockStored", "BlockRemoved", "AllBlocksCleared"})


def decode_batch(payload: bytes) -> EventBatch:
    """The events of one message's last frame. Raises EventFormatError for what is not such a payload."""
    try:
        maps = _BATCHES_OF_MAPS.decode(payload)
    except msgspec.ValidationError:
        return _decode_one_by_one(payload)
    except msgspec.MsgspecError as error:
        raise EventFormatError(f"not msgpack: {error}") from error
    return EventBatch(maps.timestamp, maps.events, maps.data_parallel_rank)


def low_64_bits(block_hash: BlockHash) -> int:
    """A block's hash as the engine's events have it by default: the last 8 bytes, read big endian."""
    if isinstance(block_hash, bytes):
        return int.from_bytes(block_hash[-8:], "big")
    return block_hash & _LOW_64_BITS


def low_64_bits_of(block_hashes: list[BlockHash]) -> array[int]:
    """Likewise for many."""
    try:
        return array("Q", block_hashes)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return array("Q", map(low_64_bits, block_hashes))


def _decode_one_by_one(payload: bytes) -> EventBatch:
    try:
        batch = _BATCHES.decode(payload)
        events = [_decode_event(raw) for raw in batch.events]
    except msgspec.MsgspecError as error:
        raise EventFormatError(f"not a batch of KV events: {error}") from error
    known = [event for event in events if event is not None]
    return EventBatch(batch.timestamp, known, batch.data_parallel_rank, unknown=len(events) - len(known))


def _decode_event(raw: msgspec.Raw) -> Event | None:
    """None for an event of an unknown type."""
    first = memoryview(raw)[0]
    is_array = 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)
    try:
        event: Event = _ARRAYS.decode(raw) if is_array else _MAPS.decode(raw)
    except msgspec.ValidationError:
        if _tag_of(raw, is_array) in _KNOWN:
            raise
        return None
    return event


def _tag_of(raw: msgspec.Raw, is_array: bool) -> str:
    if not is_array:
        return _TAGS.decode(raw).type
    fields = _ANYTHING.decode(raw)
    if not fields or not isinstance(fields[0], str):
        raise EventFormatError("an event that is an array begins with its type")
    return fields[0]
