"""Who gets what has a key: the same key the same endpoint, as long as that one is not overloaded.

Rendezvous hashing gives each key an order of endpoints of its own. The first in that order is taken whose load is below
`ceil(c * (total + own) / n)`: with `c = 1.25` no endpoint that takes something had more than a quarter above the
average. When an endpoint goes, only what was its own moves.

Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); Mirrokni, Thorup and
Zadimoghaddam, "Consistent hashing with bounded loads" (2018). What has a key weighs differently here, so the bound is
compared with the load before it: what is larger than any bound still finds its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

_BOUND_NUMERATOR, _BOUND_DENOMINATOR = 5, 4
_SHIFT = np.uint64(32)
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)


def hashes_of(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """One for each name."""
    return np.asarray([xxhash.xxh3_64_intdigest(name.encode()) for name in names], dtype=np.uint64)


def rank_values(hashes: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """Each one's rank value for the key, the highest comes first: a bijective mixing (xor-shift-multiply) of both
    hashes, so that different hashes never tie."""
    mixed: npt.NDArray[np.uint64] = hashes ^ np.uint64(key)
    for _ in range(2):
        mixed ^= mixed >> _SHIFT
        mixed *= _MULTIPLIER
    mixed ^= mixed >> _SHIFT
    return mixed


def places_of(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Each one's place in the key's order by its rank value, 0 first."""
    places = np.empty(len(values), dtype=np.intp)
    places[np.argsort(values)[::-1]] = np.arange(len(values))
    return places


def load_bound(loads: npt.NDArray[np.int64], own: int) -> int:
    """The load from which on one gets nothing more; `own` is what is to be placed."""
    total = max(0, int(loads.sum())) + max(0, own)
    # Exact integers: ceil(5/4 * total / count), and at least 1 so that idle ones are within it.
    return max(1, -(-_BOUND_NUMERATOR * total // (_BOUND_DENOMINATOR * len(loads))))


def first_within_bound(values: npt.NDArray[np.uint64], loads: npt.NDArray[np.int64], own: int) -> int:
    """The index of the highest value whose load is below the bound; of equal values the lower index. There is at
    least one."""
    within = np.flatnonzero(loads < load_bound(loads, own))
    return int(within[values[within].argmax()])
