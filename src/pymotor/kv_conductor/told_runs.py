"""Where runs of blocks lead that were told in one event: from the key of the first to those of later ones.

A question whose tokens are those of a run goes on at its end for one digest of the bytes, without a key in between,
and one that leaves the run goes on close before that place for a few. What is kept depends on tokens alone, so it is
never out of date, and any of it may be forgotten: who holds a block only the index says.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import NamedTuple, TypeAlias

import xxhash

from pymotor.kv_conductor.key_table import Keys

Run: TypeAlias = "array[int]"
"""For parts from its beginning on, ascending, the whole last, three numbers: blocks, digest of their tokens (XXH3, the
seed is the key of the first block), key of so many."""
PART_NUMBERS = 3
_PARTS = 16
_LEAST_AT_ONCE = 16
"""Blocks from which a run that begins a prompt is worth its look-up."""
_LEAST_LATER = 64
"""Likewise for any other, for which one more key has to be made."""
_RUN_BYTES = 700
"""About; of one run with its place."""


class Reached(NamedTuple):
    """How far a prompt goes along a run."""

    blocks: int
    """Of the longest part that it has."""
    key: int
    """Of the prompt up to there."""
    leaves_within: int
    """It is another prompt, or over, within so many blocks of the run's beginning; 0: it has the whole run, or ends
    where the part does."""


class ToldRuns:
    """Runs by the key of their first block, a bounded number; the least lately used goes first."""

    def __init__(self, most: int = 1 << 16) -> None:
        self._runs: OrderedDict[int, Run] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def memory_bytes(self) -> int:
        """About."""
        return len(self._runs) * _RUN_BYTES

    def hear(self, depth: int, keys: Keys, tokens: memoryview) -> None:
        """One event told the blocks that have these keys and these tokens, which depend on nothing but tokens; `depth`
        blocks are before them."""
        count = len(keys)
        if count < (_LEAST_LATER if depth else _LEAST_AT_ONCE):
            return
        first_key, size = keys.item(0), len(tokens) // count
        run = array("Q")
        digest = xxhash.xxh3_64(seed=first_key)
        before = 0
        for part in range(1, _PARTS + 1):
            blocks = count * part // _PARTS
            digest.update(tokens[before * size : blocks * size])
            run.extend((blocks, digest.intdigest(), keys.item(blocks - 1)))
            before = blocks
        runs = self._runs
        runs[first_key] = run
        runs.move_to_end(first_key)
        if len(runs) > self._most:
            runs.popitem(last=False)

    def following(self, first_key: int) -> Run | None:
        """The run that begins with this block, as it was last told."""
        run = self._runs.get(first_key)
        if run is not None:
            self._runs.move_to_end(first_key)
        return run
