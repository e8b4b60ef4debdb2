"""What a full block of a prompt is remembered by in the prefix cache."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import MediaItem


def prefix_keys(tokens: Words, media: Sequence[MediaItem], block_size: int) -> list[bytes]:
    """A key for each full block: of the key before it, its tokens, and the media in it by identifier and place.

    Identifiers, not contents: whoever names two items alike shares their KV, as in vLLM.
    """
    keys = []
    parent = b""
    data = tokens.tobytes()
    for start in range(0, len(tokens) // block_size * block_size, block_size):
        stop = start + block_size
        digest = xxhash.xxh3_128(parent)
        digest.update(data[start * 8 : stop * 8])
        for item in media:
            if item.offset < stop and item.offset + item.tokens > start:
                digest.update(f"{item.identifier}@{item.offset - start}".encode())
        parent = digest.digest()
        keys.append(parent)
    return keys
