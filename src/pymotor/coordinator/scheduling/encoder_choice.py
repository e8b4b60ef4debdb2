"""Which encoder gets a media item: the same item the same encoder, as long as that one is not overloaded.

Rendezvous hashing gives each item an order of encoders of its own. The item goes to the first in that order
whose pending load is below `ceil(c * (total + item) / n)`: with `c = 1.25` no encoder that takes an item had more
than a quarter above the average. An encoder's cache thus sees the same items again; when an encoder goes, only
its own items move.

Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); Mirrokni, Thorup and
Zadimoghaddam, "Consistent hashing with bounded loads" (2018). Items weigh differently here, so the bound is
compared with the load before the item: an item that is larger than any bound still finds its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt
import xxhash

from pymotor.coordinator.scheduling.ledger import Ledger

_BOUND_NUMERATOR, _BOUND_DENOMINATOR = 5, 4
_SHIFT = np.uint64(32)
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)


def _scores(hashes: npt.NDArray[np.uint64], item_key: int) -> npt.NDArray[np.uint64]:
    """Each encoder's rank value for the item: a bijective mixing (xor-shift-multiply) of both hashes, so that
    different encoders never tie."""
    mixed: npt.NDArray[np.uint64] = hashes ^ np.uint64(item_key)
    for _ in range(2):
        mixed ^= mixed >> _SHIFT
        mixed *= _MULTIPLIER
    mixed ^= mixed >> _SHIFT
    return mixed


class NoEncoderLeft(LookupError):
    """All endpoints are excluded."""


class EncoderChoice:
    """Chooses among the encoder endpoints of one snapshot; keeps nothing but their ids and hashes."""

    __slots__ = ("_endpoint_ids", "_hashes", "_ledger", "_rows")

    def __init__(self, ledger: Ledger, endpoint_ids: Sequence[str], rows: Sequence[int]) -> None:
        """`rows` are the endpoints' ledger rows, in the order of `endpoint_ids`.

        Raises `ValueError` when an id is named twice or the two differ in length.
        """
        if len(endpoint_ids) != len(rows):
            raise ValueError(f"{len(endpoint_ids)} encoder endpoints but {len(rows)} ledger rows")
        if len(set(endpoint_ids)) != len(endpoint_ids):
            raise ValueError("an encoder endpoint is named twice")
        self._ledger = ledger
        self._endpoint_ids = tuple(endpoint_ids)
        self._rows = np.asarray(rows, dtype=np.intp)
        digests = [xxhash.xxh3_64_intdigest(endpoint_id.encode()) for endpoint_id in endpoint_ids]
        self._hashes = np.asarray(digests, dtype=np.uint64)

    def choose(
        self,
        item_key: int,
        load: int,
        excluded: AbstractSet[str] = frozenset(),
        avoided: AbstractSet[str] = frozenset(),
    ) -> int:
        """The index of the endpoint that shall encode the item.

        `item_key`: 64 bits, well mixed (xxh3 of the item's bytes or URL). `load`: what the item will be charged
        with, in the ledger's unit. `excluded`: ids of endpoints that must not be chosen; `avoided`: of those that are
        chosen only when no other is left. Neither their load nor their number counts for the bound. Should two
        endpoints' hashes collide, the lower index goes first. Raises `NoEncoderLeft`.
        """
        loads = self._ledger.loads(self._rows)
        scores = _scores(self._hashes, item_key)
        kept = self._kept(excluded, avoided) if excluded or avoided else None
        if kept is not None:
            loads, scores = loads[kept], scores[kept]
        count = len(loads)
        if count == 0:
            raise NoEncoderLeft("no encoder endpoint is left to choose from")
        total = max(0, int(loads.sum())) + max(0, load)
        # Exact integers: ceil(5/4 * total / count), and at least 1 so that idle encoders are within it.
        bound = max(1, -(-_BOUND_NUMERATOR * total // (_BOUND_DENOMINATOR * count)))
        within = np.flatnonzero(loads < bound)
        best = int(within[scores[within].argmax()])
        return best if kept is None else int(kept[best])

    def _kept(self, excluded: AbstractSet[str], avoided: AbstractSet[str]) -> npt.NDArray[np.intp]:
        """The indices that may be chosen."""
        allowed = [index for index, name in enumerate(self._endpoint_ids) if name not in excluded]
        good = [index for index in allowed if self._endpoint_ids[index] not in avoided]
        return np.asarray(good or allowed, dtype=np.intp)
