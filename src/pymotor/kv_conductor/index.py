"""Which holders hold which beginnings of prompts.

For each block (a beginning's key) the index has the set of holders that hold it, in any tier and on the device. Who
writes it keeps one promise for each holder and both kinds: who holds a block holds all blocks before it. So along a
prompt the sets only lose members, and two places with the same set have it everywhere between: a question looks at
few places, and stops where nobody is left. It may count less than is there, never more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

from pymotor.kv_conductor.block_sizes import BlockSizes
from pymotor.kv_conductor.holder_sets import HolderSet, HolderSets, distinct
from pymotor.kv_conductor.key_table import Keys, KeyTable, Rows
from pymotor.kv_conductor.routed import RoutedPrompts
from pymotor.kv_conductor.told_keys import ToldKeys
from pymotor.kv_conductor.told_runs import Reached, Run, ToldRuns

MOST_HOLDERS = 8192
_FIRST = 256
"""Blocks of a prompt that are looked at first."""
_SHORT = 64
"""Of a prompt of so few blocks all keys are made at once."""
_STEPS = 4
"""So few blocks are looked at one after the other."""
_WHOLE = 256
"""Of so many blocks all keys are made at once where the set changes among them."""


class Reuse(Protocol):
    """Who says how much of what is held is of use."""

    def reusable(self, key: int, blocks: int, tiers: int) -> int:
        """Of a beginning of so many blocks with this key, all of which are held in these tiers: how many the engine
        would not compute again."""


class _Blocks(KeyTable):
    holders: array[int]
    """Number of the set."""
    references: array[int]
    """Of publishers' views."""
    depth: array[int]
    """Blocks before it in the prompt."""
    columns: ClassVar[dict[str, str]] = {"holders": "I", "references": "I", "depth": "H"}


class PrefixIndex:
    """The blocks of all holders."""

    def __init__(self, most_entries: int = 1 << 25, routed: RoutedPrompts | None = None) -> None:
        """`most_entries`: bound on pairs of a block and who refers to it. With it reached, views take no new blocks
        until old ones went. `routed` hears what engines tell of prompts that are expected there."""
        self.routed = routed if routed is not None else RoutedPrompts()
        self.blocks = _Blocks()
        self.sets = HolderSets()
        self.sizes = BlockSizes()
        self.runs = ToldRuns()
        self.told_keys = ToldKeys()
        self.limits: dict[int, Reuse] = {}
        """Of holders that may have less use of what they hold: who says how much."""
        self.most_entries = most_entries
        self.entries = 0
        """Pairs of a block and a view that refers to it."""
        self.refused = 0
        """Blocks that were not taken, because of the bound."""

    @property
    def memory_bytes(self) -> int:
        """Of all but the publishers' views."""
        lately_told = self.runs.memory_bytes + self.told_keys.memory_bytes
        return self.blocks.memory_bytes + self.sets.memory_bytes + lately_told

    def room_for(self, count: int) -> bool:
        """Whether so many more entries fit; counts them as refused if not."""
        if self.entries + count <= self.most_entries:
            return True
        self.refused += count
        return False

    def refer(self, key: int, depth: int) -> int:
        """The row of a block that one more view refers to."""
        blocks = self.blocks
        row = blocks.find(key)
        if row < 0:
            row = blocks.add(key)
            blocks.depth[row] = depth
        blocks.references[row] += 1
        self.entries += 1
        return row

    def refer_many(self, keys: Keys, depth: int) -> Rows:
        """The rows of blocks that follow each other, the first at this depth, for one more view."""
        blocks = self.blocks
        rows, ends = blocks.find_many(keys)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            rows[missing] = blocks.add_many(keys[missing], ends[missing])
            np.frombuffer(blocks.depth, np.uint16)[rows[missing]] = missing + depth
        np.frombuffer(blocks.references, np.uint32)[rows] += np.uint32(1)
        self.entries += len(keys)
        return rows

    def release(self, row: int) -> None:
        """One view refers to the block no more, after it said that it holds it nowhere."""
        blocks = self.blocks
        blocks.references[row] -= 1
        if not blocks.references[row]:
            blocks.remove(row)
        self.entries -= 1

    def release_many(self, rows: Rows) -> None:
        """Likewise for many blocks."""
        blocks = self.blocks
        references = np.frombuffer(blocks.references, np.uint32)
        np.subtract.at(references, rows, np.uint32(1))
        blocks.remove_many(distinct(rows[references[rows] == 0]))
        self.entries -= len(rows)

    def hold(self, row: int, slot: int, state: int) -> bool:
        """Says where a holder holds a block from now on. Returns whether it held it somewhere before."""
        if slot in self.routed.waiting:
            (self.routed.told if state else self.routed.lost)(slot, self.blocks.keys[row])
        holders = self.blocks.holders
        before = holders[row]
        holders[row] = self.sets.move(before, 1, slot, state)
        return self.sets.has(before, slot)

    def hold_many(self, rows: Rows, slot: int, state: int) -> Rows:
        """Likewise for many blocks, which all differ. Returns those that it held somewhere before."""
        if not len(rows):
            return rows
        if slot in self.routed.waiting:
            hear = self.routed.told if state else self.routed.lost
            for key in np.frombuffer(self.blocks.keys, np.uint64)[rows].tolist():
                hear(slot, key)
        sets = self.sets
        holders = np.frombuffer(self.blocks.holders, np.uint32)
        before = holders[rows]
        if (before == before[0]).all():
            first = int(before[0])
            holders[rows] = sets.move(first, len(rows), slot, state)
            return rows if sets.has(first, slot) else rows[:0]
        numbers = distinct(before)
        which = np.searchsorted(numbers, before)
        counts = np.bincount(which)
        targets = np.empty(len(numbers), np.uint32)
        had = np.zeros(len(numbers), np.bool_)
        for place, (number, count) in enumerate(zip(numbers.tolist(), counts.tolist(), strict=True)):
            targets[place] = sets.move(number, count, slot, state)
            had[place] = sets.has(number, slot)
        holders[rows] = targets[which]
        return rows[had[which]]

    def holders_of(self, key: int) -> int:
        """The number of the set that holds a beginning; 0: nobody."""
        row = self.blocks.find(key)
        return self.blocks.holders[row] if row >= 0 else 0


KeysByLength: TypeAlias = Callable[[int], int]


class Beginnings(Protocol):
    """The keys of a prompt's beginnings, made only where they are asked for."""

    count: int
    """Full blocks that the prompt has."""

    plain: bool
    """Whether keys depend on nothing but tokens."""

    def next_first(self, key: int, place: int) -> int:
        """The key of the block after the first `place` blocks, which have `key`; there is one."""

    def along(self, run: Run, first_key: int, place: int) -> Reached | None:
        """How far the prompt, whose block after the first `place` has this key, goes along the run; None: not as far
        as its first part. The prompt is `plain`."""

    def after(self, key: int, place: int, count: int) -> int:
        """The key of the first `count` blocks; `key` is that of the first `place`."""

    def by_length(self, key: int, place: int, count: int) -> KeysByLength:
        """Likewise for all beginnings that are longer than `place` blocks, at least 1, up to `count`: what makes the
        key of one of so many blocks."""


def holder_changes(index: PrefixIndex, prompt: Beginnings, first_key: int) -> list[tuple[int, HolderSet]]:
    """Who holds how much of a prompt, which has a full block with this key: pairs of blocks and the set of those that
    hold at least so many, ascending; the sets shrink. Keys are made only as far as somebody holds all before."""
    blocks, count, key = 1, prompt.count, first_key
    holders = index.holders_of(key)
    if not holders:
        return []
    changes: list[tuple[int, int]] = []
    if prompt.plain:
        blocks, key, holders = _along_runs(index, prompt, key, holders, changes)
    if holders and 0 < count - blocks < _SHORT:
        by_length = prompt.by_length(key, blocks, count)
        end_holders = index.holders_of(by_length(count))
        if end_holders != holders:
            _within(index, by_length, (blocks, holders), (count, end_holders), changes)
        blocks, holders = count, end_holders
    while holders and blocks < count:
        ends = min(count, max(_FIRST, blocks * 4))
        end_key = prompt.after(key, blocks, ends)
        end_holders = index.holders_of(end_key)
        if end_holders != holders:
            _between(index, prompt, (blocks, holders), key, (ends, end_holders), changes)
        blocks, key, holders = ends, end_key, end_holders
    if holders:
        changes.append((count, holders))
    return [(blocks, index.sets[number]) for blocks, number in changes]


def _along_runs(
    index: PrefixIndex, prompt: Beginnings, key: int, holders: int, changes: list[tuple[int, int]]
) -> tuple[int, int, int]:
    """As far as the prompt, whose first block has this key and is held by these, goes along runs that the same hold
    from end to end: blocks, their key and who holds so many; adds where the set changes before."""
    place, blocks = 0, 1
    while holders and (run := index.runs.following(key)) is not None:
        reached = prompt.along(run, key, place)
        if reached is None:
            break
        length, end_key, leaves_within = reached
        if index.holders_of(end_key) != holders:
            break
        begun, place = place, place + length
        if place == prompt.count:
            return place, end_key, holders
        if leaves_within:
            return _until(index, prompt, (place, holders), end_key, begun + leaves_within, changes)
        key = prompt.next_first(end_key, place)
        first_holders = index.holders_of(key)
        if first_holders != holders:
            changes.append((place, holders))
        blocks, holders = place + 1, first_holders
    return blocks, key, holders


_Place: TypeAlias = tuple[int, int]
"""A number of blocks, and that of the set that holds so many."""


def _until(
    index: PrefixIndex, prompt: Beginnings, lower: _Place, key: int, ends: int, changes: list[tuple[int, int]]
) -> tuple[int, int, int]:
    """From a place with this key to another: blocks, key and holders there, or where nobody is left before; adds where
    the set changes between."""
    place, holders = lower
    if ends - place > _STEPS:
        by_length = prompt.by_length(key, place, ends)
        key = by_length(ends)
        end_holders = index.holders_of(key)
        if end_holders != holders:
            _within(index, by_length, lower, (ends, end_holders), changes)
        return ends, key, end_holders
    while holders and place < ends:
        key = prompt.next_first(key, place)
        next_holders = index.holders_of(key)
        if next_holders != holders:
            changes.append((place, holders))
        place, holders = place + 1, next_holders
    return place, key, holders


def _between(
    index: PrefixIndex, prompt: Beginnings, lower: _Place, key: int, upper: _Place, changes: list[tuple[int, int]]
) -> None:
    """Adds where the set changes between two places of which it differs, with the set that ends there. `key` is that
    of `lower`."""
    if upper[0] - lower[0] <= _WHOLE:
        _within(index, prompt.by_length(key, lower[0], upper[0]), lower, upper, changes)
        return
    middle = (lower[0] + upper[0]) // 2
    middle_key = prompt.after(key, lower[0], middle)
    there = (middle, index.holders_of(middle_key))
    if there[1] != lower[1]:
        _between(index, prompt, lower, key, there, changes)
    if there[1] != upper[1]:
        _between(index, prompt, there, middle_key, upper, changes)


def _within(
    index: PrefixIndex, by_length: KeysByLength, lower: _Place, upper: _Place, changes: list[tuple[int, int]]
) -> None:
    """Likewise where all keys between them can be made."""
    blocks, holders = lower
    ends, end_holders = upper
    holders_of = index.holders_of
    while ends - blocks > 1:
        middle = (blocks + ends) // 2
        there = holders_of(by_length(middle))
        if there == holders:
            blocks = middle
        elif there == end_holders:
            ends = middle
        else:
            _within(index, by_length, (blocks, holders), (middle, there), changes)
            blocks, holders = middle, there
    changes.append((blocks, holders))
