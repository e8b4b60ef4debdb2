"""Paged KV cache: a fixed number of blocks, reference counts, and a prefix cache over freed blocks.

A block's content is what was last written there. Freeing does not erase it and reading does not ask to
whom it belongs: whoever reads a block too late reads what its next owner wrote, as on an accelerator.

Invariants, checked by `check`:
1. a block is free exactly when nobody refers to it;
2. a key of the prefix cache names the one block that carries this key;
3. references are never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pymotor.engines.sim.cache_events import CacheEvents, Cleared, Removed
from pymotor.engines.sim.model import Words


class BlockPool:
    """Blocks of `block_size` positions, one 64-bit word for each position."""

    def __init__(
        self, count: int, block_size: int, events: CacheEvents | None = None, *, keeps_content: bool = True
    ) -> None:
        """`events`: where to tell what the prefix cache forgets; what it remembers is told by who fills the blocks.
        Without `keeps_content` nothing can be written or read."""
        self.count = count
        self.block_size = block_size
        self._content = np.zeros((count if keeps_content else 0, block_size), dtype=np.uint64)
        self._references = [0] * count
        self._free: dict[int, None] = dict.fromkeys(range(count))
        self._key: list[bytes | None] = [None] * count
        self._cached: dict[bytes, int] = {}
        self._events = events

    @property
    def free_count(self) -> int:
        """Blocks that can be allocated, cached ones included."""
        return len(self._free)

    @property
    def used_count(self) -> int:
        """Blocks somebody refers to."""
        return self.count - len(self._free)

    @property
    def cached_count(self) -> int:
        """Blocks that `match` may find."""
        return len(self._cached)

    def allocate(self, number: int) -> list[int] | None:
        """Take `number` blocks, those freed longest ago first, or None when there are not enough."""
        if number > len(self._free):
            return None
        blocks = []
        for _ in range(number):
            block = next(iter(self._free))
            del self._free[block]
            self._references[block] = 1
            self._forget(block)
            blocks.append(block)
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """Refer to blocks that `match` found."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one reference to each; the end of a prompt is reused before its beginning."""
        for block in reversed(blocks):
            if self._references[block] <= 0:
                raise ValueError(f"block {block} is released more often than taken")
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest cached prefix of `keys`."""
        blocks = []
        for key in keys:
            block = self._cached.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def has(self, key: bytes) -> bool:
        """Whether a block is found under `key`."""
        return key in self._cached

    def remember(self, block: int, key: bytes) -> None:
        """Offer a full block to later requests under `key`; the first block of a key stays the one."""
        if self._key[block] is None and key not in self._cached:
            self._key[block] = key
            self._cached[key] = block

    def carries(self, block: int, key: bytes) -> bool:
        """Whether the block is the one that is found under `key`."""
        return self._cached.get(key) == block

    def forget_all(self) -> None:
        """Empty the prefix cache; contents stay where they are."""
        for block in self._cached.values():
            self._key[block] = None
        self._cached.clear()
        if self._events is not None:
            self._events.add(Cleared())

    def _forget(self, block: int) -> None:
        key = self._key[block]
        if key is not None:
            self._key[block] = None
            del self._cached[key]
            if self._events is not None:
                self._events.add(Removed(key))

    def write(self, blocks: Sequence[int], first_position: int, states: Words) -> None:
        """Put the KV of consecutive positions where a request with these blocks keeps it."""
        size = self.block_size
        first, last = first_position // size, (first_position + len(states) - 1) // size
        rows = self._content[blocks[first : last + 1]].reshape(-1)
        start = first_position - first * size
        rows[start : start + len(states)] = states
        self._content[blocks[first : last + 1]] = rows.reshape(-1, size)

    def write_one(self, blocks: Sequence[int], position: int, state: int) -> None:
        """`write` for one position."""
        self._content[blocks[position // self.block_size], position % self.block_size] = state

    def scribble(self, blocks: Sequence[int]) -> None:
        """Write what some other request might have written there, and let the prefix cache forget the blocks."""
        self._content[list(blocks)] = ~self._content[list(blocks)]
        for block in blocks:
            self._forget(block)

    def read(self, blocks: Sequence[int]) -> Words:
        """All words of these blocks in order, `block_size` for each, whoever owns them.

        Raises `IndexError` for a block that does not exist.
        """
        content: Words = self._content[list(blocks)].reshape(-1)
        return content

    def check(self) -> None:
        """Raise `AssertionError` when an invariant does not hold."""
        for block, references in enumerate(self._references):
            assert references >= 0, f"block {block} has {references} references"
            assert (references == 0) == (block in self._free), f"block {block} is lost"
        for key, block in self._cached.items():
            assert self._key[block] == key, f"block {block} does not carry its key"
        assert sum(key is not None for key in self._key) == len(self._cached), "a key names two blocks"
