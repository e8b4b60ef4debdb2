"""Payloads of engines, written out by hand."""

from __future__ import annotations

import msgspec
import pytest

from pymotor.kv_conductor.events import (
    AllBlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EventFormatError,
    decode_batch,
    low_64_bits,
)

encode = msgspec.msgpack.encode


def test_maps_as_engines_write_them_now() -> None:
    # [1.5, [{"type": "BlockStored", ...}], nil] with hash 7, parent nil, tokens 1 and 300, fields of default left out.
    payload = (
        b"\x93\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x91\x88"
        b"\xa4type\xabBlockStored\xacblock_hashes\x91\x07\xb1parent_block_hash\xc0"
        b"\xa9token_ids\x92\x01\xcd\x01\x2c\xaablock_size\x02\xa7lora_id\xc0\xa6medium\xa3GPU\xa9lora_name\xc0\xc0"
    )
    batch = decode_batch(payload)
    (event,) = batch.events
    assert batch.timestamp == 1.5
    assert batch.data_parallel_rank is None
    assert isinstance(event, BlocksStored)
    assert (event.block_hashes, event.parent_block_hash, list(event.tokens())) == ([7], None, [1, 300])
    assert (event.block_size, event.medium, event.extra_keys, event.group_idx) == (2, "GPU", None, None)


@pytest.mark.parametrize(
    "fields",
    [
        ["BlockStored", [b"h" * 32], b"p" * 32, [5, 6], 2, None],
        ["BlockStored", [b"h" * 32], b"p" * 32, [5, 6], 2, None, "GPU", None],
        ["BlockStored", [b"h" * 32], b"p" * 32, [5, 6], 2, None, "GPU", None, [None], 0, "full_attention", None, "x"],
    ],
)
def test_arrays_of_every_length_that_engines_wrote(fields: list[object]) -> None:
    (event,) = decode_batch(encode([1.0, [fields], 3])).events
    assert isinstance(event, BlocksStored)
    assert (event.block_hashes, event.parent_block_hash, list(event.tokens())) == ([b"h" * 32], b"p" * 32, [5, 6])
    assert event.medium in (None, "GPU")


def test_both_encodings_and_unknown_events_in_one_message() -> None:
    events = [
        ["BlockRemoved", [1, 2]],
        {"type": "BlockRemoved", "block_hashes": [3], "medium": "CPU", "group_idx": 1},
        {"type": "BlockMoved", "somewhere": 1},
        ["BlockMoved", 1],
        ["AllBlocksCleared"],
        {"type": "AllBlocksCleared"},
    ]
    batch = decode_batch(encode([1.0, events, 2]))
    assert all(isinstance(event, BlocksRemoved) for event in batch.events[:2])
    assert len(batch.events) == 4
    assert all(isinstance(event, AllBlocksCleared) for event in batch.events[2:])
    assert (batch.unknown, batch.data_parallel_rank) == (2, 2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        encode(3),
        encode([1.0, [3]]),
        encode([1.0, [[]]]),
        encode([1.0, [{"type": "BlockStored"}]]),
        encode([1.0, [["BlockRemoved"]]]),
        encode([1.0, [{"type": "BlockRemoved", "block_hashes": ["text"], "medium": None}]]),
    ],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(EventFormatError):
        decode_batch(payload)


@pytest.mark.parametrize("tokens", [[-1], [1 << 32], ["text"], 3])
def test_tokens_that_are_none_are_refused_when_they_are_read(tokens: object) -> None:
    fields = {"block_hashes": [1], "parent_block_hash": None, "token_ids": tokens, "block_size": 1, "lora_id": None}
    (event,) = decode_batch(encode([1.0, [{"type": "BlockStored", **fields}]])).events
    assert isinstance(event, BlocksStored)
    with pytest.raises(EventFormatError):
        event.tokens()


def test_bytes_and_integers_name_the_same_block() -> None:
    # The first block of the default sha256 chain of tokens 1 to 4, and its integer form, as engines publish them.
    digest = bytes.fromhex("52a7f141c60918f65779927090482b5a24adbe68c8613a211a1eb4e3edd9361a")
    assert low_64_bits(digest) == low_64_bits(1882140585328457242)
    assert low_64_bits(-1) == (1 << 64) - 1
