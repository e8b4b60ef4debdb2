"""Engines' hashes as keys of a table that looks at their low bits alone."""

from __future__ import annotations

from array import array

import numpy as np

from pymotor.kv_conductor.key_table import Keys

_LOW_64_BITS = (1 << 64) - 1
_HALF = np.uint64(32)
_MIXER = 0x9E3779B97F4A7C15
"""An odd number whose bits are well mixed: 2^64 divided by the golden ratio."""
_WIDE_MIXER = np.uint64(_MIXER)


def mixed(block_hash: int) -> int:
    """What stands for a hash in the table, which looks at low bits alone: hashes of which those are alike are not in
    each other's way there."""
    both = (block_hash ^ block_hash >> 32) * _MIXER & _LOW_64_BITS
    return both ^ both >> 32


def all_mixed(hashes: array[int]) -> Keys:
    """Likewise for many."""
    own: Keys = np.frombuffer(hashes, np.uint64)
    own = (own ^ own >> _HALF) * _WIDE_MIXER
    own ^= own >> _HALF
    return own
