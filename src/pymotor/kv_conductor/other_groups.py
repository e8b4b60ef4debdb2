"""What the other groups of a publisher's KV cache hold, where its model has layers of several kinds.

Such an engine keeps each block once for each group of layers, and evicts them one by one. It goes on after a prompt's
beginning only where every group has what it needs there: full attention all blocks before, a sliding window those that
the window reaches back to, Mamba the last one alone (vLLM's `HybridKVCacheCoordinator`). Groups are told by the same
hashes, so of these others only hashes are kept; which blocks are before each other, the group that counts knows.
"""

from __future__ import annotations

import math
from array import array
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pymotor.kv_conductor.events import BlocksStored
from pymotor.kv_conductor.hash_mixing import mixed
from pymotor.kv_conductor.key_table import Keys, KeyTable
from pymotor.kv_conductor.told_blocks import ToldBlocks

_MAMBA = "mamba"
_SLIDING_WINDOWS = frozenset({"sliding_window", "sliding_window_mla"})
_FIRST = 256
"""Blocks that are looked at first, from the end of what full attention has."""
_Flags = npt.NDArray[np.bool_]


class _Held(KeyTable):
    tiers: array[int]
    columns: ClassVar[dict[str, str]] = {"tiers": "B"}


class _Group:
    """One of the others."""

    def __init__(self, block_size: int, reach: int | None) -> None:
        self.block_size = block_size
        """Tokens."""
        self.reach = reach
        """Tokens before a place that must be there to go on from it; None: all."""
        self.held = _Held()

    def holds(self, hashes: Keys, tiers: int) -> _Flags:
        """Of each block, whether it is in one of these tiers."""
        rows, _ = self.held.find_many(hashes)
        flags: _Flags = (rows >= 0) & (np.frombuffer(self.held.tiers, np.uint8)[rows] & tiers != 0)
        return flags


class OtherGroups:
    """All groups of one publisher but the one that counts."""

    def __init__(self) -> None:
        self._groups: dict[int | None, _Group] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __len__(self) -> int:
        """Blocks that they hold; one that several hold counts several times."""
        return sum(len(group.held) for group in self._groups.values())

    @property
    def memory_bytes(self) -> int:
        """Of what is kept for each block."""
        return sum(group.held.memory_bytes for group in self._groups.values())

    def hear(self, event: BlocksStored) -> int:
        """That there is such a group, even if the event has no blocks. Returns how many blocks that it held before
        count no more, because it is another group now."""
        reach = _reach(event)
        group = self._groups.get(event.group_idx)
        if group is not None and (group.block_size, group.reach) == (event.block_size, reach):
            return 0
        self._groups[event.group_idx] = _Group(event.block_size, reach)
        return len(group.held) if group is not None else 0

    def store(self, number: int | None, hashes: array[int], tier: int) -> int:
        """The group, which was heard of, has these blocks in this tier (too). Returns how many it had nowhere."""
        held = self._groups[number].held
        before = len(held)
        for block_hash in hashes:
            own = mixed(block_hash)
            row = held.find(own)
            if row < 0:
                row = held.add(own)
            held.tiers[row] |= tier
        return len(held) - before

    def remove(self, number: int | None, hashes: array[int], tier: int) -> int:
        """A group has these blocks in this tier no more; None: whichever it is. Returns how many are nowhere now."""
        groups = self._groups.values() if number is None else filter(None, [self._groups.get(number)])
        return sum(_remove(group.held, hashes, tier) for group in groups)

    def clear(self) -> int:
        """Forgets all groups; returns how many blocks that were."""
        count = len(self)
        self._groups.clear()
        return count

    def reusable(self, told: ToldBlocks, row: int, blocks: int, block_size: int, tiers: int) -> int:
        """How many of the `blocks` blocks up to this row, which full attention has in these tiers, are of use."""
        needs: dict[tuple[int, int | None], list[_Group]] = {}
        for group in self._groups.values():
            if group.block_size % block_size or not group.block_size:
                # Its blocks end where no hash is known here: less than there is, never more.
                return 0
            stride = group.block_size // block_size
            reach = None if group.reach is None else -(-group.reach // group.block_size)
            needs.setdefault((stride, reach), []).append(group)
        step = math.lcm(*(stride for stride, _ in needs))
        seen = min(blocks, _FIRST)
        while True:
            # The last block comes first.
            hashes = told.hashes_before(row, seen)
            ends = blocks - np.arange(len(hashes))
            good: _Flags = ends % step == 0
            for (stride, reach), groups in needs.items():
                own = np.flatnonzero(ends % stride == 0)
                has = np.logical_and.reduce([group.holds(hashes[own], tiers) for group in groups])
                good[own] &= _suffices(has, reach, to_the_first=seen == blocks)
            if good.any():
                return int(ends[int(good.argmax())])
            if seen == blocks:
                return 0
            seen = min(blocks, seen * 4)


def _suffices(has: _Flags, reach: int | None, *, to_the_first: bool) -> _Flags:
    """For each block, the last first, whether it and as many before it as are needed are there, or all."""
    count = len(has)
    gaps = np.where(has, count, np.arange(count))
    runs = np.minimum.accumulate(gaps[::-1])[::-1]
    whole: _Flags = (runs == count) & to_the_first
    return whole if reach is None else whole | (runs - np.arange(count) >= reach)


def _reach(event: BlocksStored) -> int | None:
    if event.kv_cache_spec_kind == _MAMBA:
        return 1
    window = event.kv_cache_spec_sliding_window
    if event.kv_cache_spec_kind in _SLIDING_WINDOWS and window is not None and window > 0:
        # The token that comes next is one of the window's.
        return max(1, window - 1)
    return None


def _remove(held: _Held, hashes: array[int], tier: int) -> int:
    gone = 0
    for block_hash in hashes:
        row = held.find(mixed(block_hash))
        if row < 0:
            continue
        held.tiers[row] &= ~tier
        if not held.tiers[row]:
            held.remove(row)
            gone += 1
    return gone
