"""The blocks that one publisher told of, as a forest: each has the one before it in its prompt as its parent.

Removals and parents name blocks only by the engine's own hash, so each block has a row: its hash, its place in the
index, its parent, the tiers it is in. A block counts as held while it and all blocks before it are there (in any
tier; on the device), which is what the index is promised. One that lost a block before it waits, and counts again
when that comes back. A block in no tier is kept while others follow it.

The same place in the index may be told with two hashes: of an adapter that was loaded anew, or where hashes depend on
more than events say. Which of the two a prompt would find is not known, so the one told last counts alone, and the
other is as good as removed.
"""

from __future__ import annotations

from array import array
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pymotor.kv_conductor.hash_mixing import all_mixed, mixed
from pymotor.kv_conductor.holder_sets import IN_ANY_TIER, NOWHERE, ON_DEVICE, distinct
from pymotor.kv_conductor.index import PrefixIndex
from pymotor.kv_conductor.key_table import Keys, KeyTable, Rows
from pymotor.kv_conductor.tiers import DEVICE_TIER

TOGETHER = 12
"""From so many blocks on, many at once are faster than one at a time."""
NO_PARENT = -1


class _Told(KeyTable):
    block: array[int]
    """Row in the index."""
    parent: array[int]
    """Row here, plus one; 0: none."""
    children: array[int]
    """Number of rows that have this one as parent."""
    tiers: array[int]
    counted: array[int]
    """Where the index says that it is held."""
    columns: ClassVar[dict[str, str]] = {"block": "i", "parent": "i", "children": "I", "tiers": "B", "counted": "B"}


class ToldBlocks:
    """Writes one slot of the index. After changes, `settle` before anybody asks the index."""

    def __init__(self, index: PrefixIndex, slot: int) -> None:
        self._index = index
        self._slot = slot
        self._told = _Told()
        self._stale = False
        """What counts as held must be found anew, for all rows."""
        self._by_block: dict[int, int] | None = None
        """The row of each block in the index that counts; None: nobody has asked for one yet."""

    def __len__(self) -> int:
        return len(self._told)

    @property
    def memory_bytes(self) -> int:
        """Of the rows."""
        return self._told.memory_bytes + 100 * len(self._by_block or ())

    def know_by_block(self, *, wanted: bool) -> None:
        """Whether `row_of` will be asked."""
        if not wanted:
            self._by_block = None
        elif self._by_block is None:
            rows = self._told.rows()
            rows = rows[np.frombuffer(self._told.counted, np.uint8)[rows] != NOWHERE]
            blocks = np.frombuffer(self._told.block, np.int32)[rows]
            self._by_block = dict(zip(blocks.tolist(), rows.tolist(), strict=True))

    def row_of(self, block: int) -> int:
        """The row that counts of those that are this block of the index; -1: none is known."""
        return (self._by_block or {}).get(block, -1)

    def hashes_before(self, row: int, count: int) -> Keys:
        """What stands for the hashes (`mixed`) of this row and those before it, so many in all: the last block
        first."""
        parents = self._told.parent
        rows: list[int] = []
        while row >= 0 and len(rows) < count:
            rows.append(row)
            row = parents[row] - 1
        hashes: Keys = np.frombuffer(self._told.keys, np.uint64)[rows]
        return hashes

    def find(self, block_hash: int) -> int:
        """The row of a block; -1: it is not known."""
        return self._told.find(mixed(block_hash))

    def find_all(self, hashes: array[int]) -> tuple[Rows, Rows]:
        """Likewise for many; the second is for `store_all_new`."""
        return self._told.find_many(all_mixed(hashes))

    def place(self, row: int) -> tuple[int, int]:
        """The block's key, and how many blocks are before it in its prompt."""
        block = self._told.block[row]
        return self._index.blocks.keys[block], self._index.blocks.depth[block]

    def store(self, block_hash: int, key: int, depth: int, parent: int, tier: int) -> int:
        """The row of a block that is now in this tier (too); `parent`: the row before it, or NO_PARENT."""
        row = self.find(block_hash)
        if row < 0:
            return self.store_new(block_hash, key, depth, parent, tier)
        self._add_tier(row, tier)
        return row

    def store_new(self, block_hash: int, key: int, depth: int, parent: int, tier: int) -> int:
        """Likewise for a block that is not known."""
        told = self._told
        row = told.add(mixed(block_hash))
        block = told.block[row] = self._index.refer(key, depth)
        counted = ON_DEVICE if tier == DEVICE_TIER else IN_ANY_TIER
        if parent >= 0:
            told.parent[row] = parent + 1
            told.children[parent] += 1
            counted &= told.counted[parent]
        told.tiers[row] = tier
        if counted:
            told.counted[row] = counted
            if self._index.hold(block, self._slot, counted):
                self._supersede(np.array([block]), np.array([row]))
            if self._by_block is not None:
                self._by_block[block] = row
        return row

    def store_all_new(self, hashes: array[int], ends: Rows, keys: Keys, depth: int, parent: int, tier: int) -> None:
        """Many blocks that follow each other and differ, of which none is known; `ends` is from `find_all`, just
        before."""
        told = self._told
        rows = told.add_many(all_mixed(hashes), ends)
        blocks = self._index.refer_many(keys, depth)
        np.frombuffer(told.block, np.int32)[rows] = blocks
        parents = np.frombuffer(told.parent, np.int32)
        parents[rows[1:]] = rows[:-1] + 1
        parents[rows[0]] = parent + 1
        np.frombuffer(told.children, np.uint32)[rows[:-1]] = 1
        np.frombuffer(told.tiers, np.uint8)[rows] = tier
        counted = ON_DEVICE if tier == DEVICE_TIER else IN_ANY_TIER
        if parent >= 0:
            told.children[parent] += 1
            counted &= told.counted[parent]
        if counted:
            np.frombuffer(told.counted, np.uint8)[rows] = counted
            held_before = self._index.hold_many(blocks, self._slot, counted)
            if len(held_before):
                self._supersede(held_before, rows)
            if self._by_block is not None:
                self._by_block.update(zip(blocks.tolist(), rows.tolist(), strict=True))

    def add_tier(self, block_hash: int, tier: int) -> bool:
        """A block, if it is known, is now in this tier (too). False: it is not known."""
        row = self.find(block_hash)
        if row < 0:
            return False
        self._add_tier(row, tier)
        return True

    def store_again(self, rows: Rows, tier: int) -> None:
        """Blocks that are known are now in this tier (too)."""
        for row in rows[np.frombuffer(self._told.tiers, np.uint8)[rows] & tier == 0].tolist():
            # One of them may have superseded another, which is gone then.
            if self._told.tiers[row] or self._told.children[row]:
                self._add_tier(row, tier)

    def remove(self, hashes: array[int], tier: int) -> None:
        """Blocks are no longer in this tier; those that are not known are passed over."""
        told = self._told
        if len(hashes) >= TOGETHER and self._remove_together(hashes, tier):
            return
        for own in hashes:
            row = self.find(own)
            if row >= 0 and told.tiers[row] & tier:
                told.tiers[row] &= ~tier
                self._count(row)
                self._free(row)

    def settle(self) -> None:
        """Brings the index up to date."""
        if self._stale:
            self._count_all()
        self._index.sets.sweep()

    def clear(self) -> None:
        """Forgets all blocks."""
        told = self._told
        rows = told.rows()
        if len(rows):
            blocks = np.frombuffer(told.block, np.int32)[rows].astype(np.intp)
            self._index.hold_many(distinct(blocks), self._slot, NOWHERE)
            self._index.release_many(blocks)
            told.clear()
        if self._by_block:
            self._by_block.clear()
        self._stale = False

    def _add_tier(self, row: int, tier: int) -> None:
        told = self._told
        if not told.tiers[row] & tier:
            told.tiers[row] |= tier
            self._count(row)

    def _remove_together(self, hashes: array[int], tier: int) -> bool:
        """Removes blocks that are in no other tier and that no other block follows; False: nothing was done."""
        told = self._told
        rows, _ = self.find_all(hashes)
        rows = rows[rows >= 0]
        if not len(rows):
            return True
        going = np.zeros(len(told.tiers), np.bool_)
        going[rows] = True
        if np.count_nonzero(going) != len(rows) or (np.frombuffer(told.tiers, np.uint8)[rows] != tier).any():
            return False
        children = np.frombuffer(told.children, np.uint32)
        parents = np.frombuffer(told.parent, np.int32)[rows]
        parents = parents[parents > 0] - 1
        np.subtract.at(children, parents, np.uint32(1))
        if children[rows].any():
            np.add.at(children, parents, np.uint32(1))
            return False
        blocks = np.frombuffer(told.block, np.int32)[rows].astype(np.intp)
        self._index.hold_many(blocks[np.frombuffer(told.counted, np.uint8)[rows] != NOWHERE], self._slot, NOWHERE)
        self._index.release_many(blocks)
        if self._by_block is not None:
            for block, row in zip(blocks.tolist(), rows.tolist(), strict=True):
                self._forget_by_block(block, row)
        told.remove_many(rows)
        for parent in distinct(parents[~going[parents]]).tolist():
            # One of them may have gone with another that came after it.
            if told.find(told.keys[parent]) == parent:
                self._free(parent)
        return True

    def _count(self, row: int) -> None:
        """Whether the block counts as held, after its tiers changed."""
        told = self._told
        tiers, parent = told.tiers[row], told.parent[row]
        counted = NOWHERE if not tiers else ON_DEVICE if tiers & DEVICE_TIER else IN_ANY_TIER
        if parent:
            counted &= told.counted[parent - 1]
        before = told.counted[row]
        if counted != before:
            told.counted[row] = counted
            held_before = self._index.hold(told.block[row], self._slot, counted)
            if told.children[row]:
                self._stale = True
            if held_before and not before:
                self._supersede(np.array([told.block[row]]), np.array([row]))
            if counted and self._by_block is not None:
                self._by_block[told.block[row]] = row

    def _supersede(self, blocks: Rows, by: Rows) -> None:
        """These blocks of the index, which counted as held by other rows than these, are held by these from now on."""
        told = self._told
        if self._by_block is not None:
            counting = {self._by_block.get(block, -1) for block in blocks.tolist()} - {-1, *by.tolist()}
            self._drop(np.array(list(counting), np.intp))
            return
        rows, ordered = told.rows(), np.sort(blocks)
        own = np.frombuffer(told.block, np.int32)[rows]
        rows = rows[ordered.take(np.searchsorted(ordered, own), mode="clip") == own]
        kept = np.zeros(len(told.keys), np.bool_)
        kept[by] = True
        self._drop(rows[~kept[rows]])
        # A publisher that does so once does so again.
        self.know_by_block(wanted=True)

    def _drop(self, rows: Rows) -> None:
        """These rows are in no tier any more, and count as little; the index has heard of it."""
        told = self._told
        np.frombuffer(told.tiers, np.uint8)[rows] = 0
        np.frombuffer(told.counted, np.uint8)[rows] = NOWHERE
        self._stale |= bool(np.frombuffer(told.children, np.uint32)[rows].any())
        for row in rows.tolist():
            # One of them may have gone with another that came after it.
            if told.tiers[row] == 0 and told.find(told.keys[row]) == row:
                self._free(row)

    def _free(self, row: int) -> None:
        """Forgets a block that is in no tier and that no other block follows, and those before it likewise."""
        told = self._told
        while not told.tiers[row] and not told.children[row]:
            parent = told.parent[row] - 1
            if self._by_block is not None:
                self._forget_by_block(told.block[row], row)
            self._index.release(told.block[row])
            told.remove(row)
            if parent < 0:
                return
            told.children[parent] -= 1
            row = parent

    def _forget_by_block(self, block: int, row: int) -> None:
        # The same tokens may have been told with two hashes.
        if self._by_block is not None and self._by_block.get(block) == row:
            del self._by_block[block]

    def _count_all(self) -> None:
        """Finds anew, for all rows, which blocks are held with all blocks before them."""
        self._stale = False
        told = self._told
        rows = told.rows()
        blocks, tiers = np.frombuffer(told.block, np.int32), np.frombuffer(told.tiers, np.uint8)
        whole = self._whole()
        doubled = self._doubled(rows[whole[rows] != NOWHERE])
        if len(doubled):
            tiers[doubled] = 0
            whole = self._whole()
        counted = np.frombuffer(told.counted, np.uint8)
        changed = rows[counted[rows] != whole[rows]]
        for state in (NOWHERE, IN_ANY_TIER, ON_DEVICE):
            to_state = changed[whole[changed] == state]
            counted[to_state] = state
            self._index.hold_many(distinct(blocks[to_state].astype(np.intp)), self._slot, state)
            if state != NOWHERE and self._by_block is not None:
                self._by_block.update(zip(blocks[to_state].tolist(), to_state.tolist(), strict=True))
        self._drop(doubled)
        self._stale = False

    def _whole(self) -> npt.NDArray[np.uint8]:
        """For each row where it is held with all blocks before it."""
        tiers = np.frombuffer(self._told.tiers, np.uint8)
        # One longer than the rows: place 0 stands for what is before a prompt's first block.
        whole = np.zeros(len(tiers) + 1, np.uint8)
        whole[0] = ON_DEVICE
        whole[1:][tiers != 0] = IN_ANY_TIER
        whole[1:][tiers & DEVICE_TIER != 0] = ON_DEVICE
        before = np.zeros(len(tiers) + 1, np.intp)
        before[1:] = np.frombuffer(self._told.parent, np.int32)
        # Each round doubles how many blocks before a block are taken into account.
        while before.any():
            whole &= whole[before]
            before = before[before]
        return whole[1:]

    def _doubled(self, rows: Rows) -> Rows:
        """Those of the rows that are the same block of the index as another of them, all but one of each."""
        blocks = np.frombuffer(self._told.block, np.int32)[rows]
        one = np.empty(len(self._index.blocks.keys), np.intp)
        one[blocks] = rows
        doubled: Rows = rows[one[blocks] != rows]
        return doubled
