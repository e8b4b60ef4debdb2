"""Where runs of blocks lead that were told in one event: from the key of the first to those of later ones.

A question whose tokens are those of a run goes on at its end for one digest of the bytes, without a key in between,
and one that leaves the run goes on close before that place for a few. What is kept depends on tokens alone, so it is
never out of date, and any of it may be forgotten: who holds a block only the index says.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TypeAlias

import xxhash

from pymotor.kv_conductor.key_table import Keys

_PARTS = 16
_LEAST_AT_ONCE = 16
"""Blocks from which a run that begins a prompt is worth its look-up."""
_LEAST_LATER = 64
"""Likewise for any other, for which one more key has to be made."""
_RUN_BYTES = 800
"""About; of one run with its place."""


class Run:
    """Blocks that one event told, by ever longer parts from its beginning on, the last the whole."""

    __slots__ = ("blocks", "digests", "keys")

    def __init__(self, blocks: array[int], digests: array[int], keys: array[int]) -> None:
        self.blocks = blocks
        """Of each part."""
        self.digests = digests
        """Of each part's tokens (XXH3, the seed is the key of the first block)."""
        self.keys = keys
        """Of the beginning that each part ends."""


Reached: TypeAlias = tuple[int, int, int]
"""How far a prompt goes along a run: the blocks of the longest part that it has, the key of the prompt up to there, and
within how many blocks of the run's beginning it is another prompt or over; 0: it has the whole run, or ends where the
part does."""


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
        run = Run(array("I"), array("Q"), array("Q"))
        digest = xxhash.xxh3_64(seed=first_key)
        before = 0
        for part in range(1, _PARTS + 1):
            blocks = count * part // _PARTS
            digest.update(tokens[before * size : blocks * size])
            run.blocks.append(blocks)
            run.digests.append(digest.intdigest())
            run.keys.append(keys.item(blocks - 1))
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
