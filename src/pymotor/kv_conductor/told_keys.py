"""Keys of blocks that some publisher told lately, by the bytes of their tokens as they came.

What many endpoints hold, many tell: only the first time its tokens are read and keys are made.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec
import xxhash

from pymotor.kv_conductor.key_table import Keys

_LEAST_BLOCKS = 8
_ENTRY_BYTES = 450
"""About; besides the keys."""


class ToldKeys:
    """Of a bounded number of blocks; the least lately told go first. All depend on nothing but tokens."""

    def __init__(self, most_blocks: int = 1 << 18) -> None:
        self._keys: OrderedDict[int, Keys] = OrderedDict()
        self._most_blocks = most_blocks
        self._blocks = 0

    @property
    def memory_bytes(self) -> int:
        """About."""
        return self._blocks * 8 + len(self._keys) * _ENTRY_BYTES

    def find(self, before: int, tokens: msgspec.Raw, count: int) -> Keys | None:
        """The keys of so many blocks with these tokens, in msgpack, after the beginning with the key `before`."""
        if count < _LEAST_BLOCKS:
            return None
        digest = _digest(before, tokens)
        keys = self._keys.get(digest)
        if keys is None or len(keys) != count:
            return None
        self._keys.move_to_end(digest)
        return keys

    def keep(self, before: int, tokens: msgspec.Raw, keys: Keys) -> None:
        """They were made, for all blocks that have these tokens."""
        if len(keys) < _LEAST_BLOCKS:
            return
        digest = _digest(before, tokens)
        former = self._keys.pop(digest, None)
        self._blocks += len(keys) - (0 if former is None else len(former))
        self._keys[digest] = keys
        while self._blocks > self._most_blocks:
            self._blocks -= len(self._keys.popitem(last=False)[1])


def _digest(before: int, tokens: msgspec.Raw) -> int:
    return int(xxhash.xxh3_64_intdigest(memoryview(tokens), before))
