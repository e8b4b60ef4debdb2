"""Where runs of blocks lead that were told in one event: from the key of the first to those of later ones.

A question whose tokens are those of a run goes on at its end, or at one of its quarters, for one digest of the bytes,
without a key in between. What is kept depends on tokens alone, so it is never out of date, and any of it may be
forgotten: who holds a block only the index says.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TypeAlias

import xxhash

from pymotor.kv_conductor.key_table import Keys

Run: TypeAlias = "array[int]"
"""For the whole and each shorter part, three numbers: blocks, digest of their tokens, key of so many."""
PART_NUMBERS = 3
_PARTS = 4
_LEAST_AT_ONCE = 16
"""Blocks from which a run that begins a prompt is worth its look-up."""
_LEAST_LATER = 64
"""Likewise for any other, for which one more key has to be made."""
_RUN_BYTES = 330
"""About; of one run with its place."""


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
        for part in range(_PARTS, 0, -1):
            blocks = count * part // _PARTS
            run.extend((blocks, tokens_digest(first_key, tokens[: blocks * size]), keys.item(blocks - 1)))
        runs = self._runs
        runs[first_key] = run
        if len(runs) > self._most:
            runs.popitem(last=False)

    def following(self, first_key: int) -> Run | None:
        """The run that begins with this block, as it was last told."""
        run = self._runs.get(first_key)
        if run is not None:
            self._runs.move_to_end(first_key)
        return run


def tokens_digest(first_key: int, tokens: memoryview) -> int:
    """Of the tokens of a run's part whose first block has this key."""
    return int(xxhash.xxh3_64_intdigest(tokens, first_key))
