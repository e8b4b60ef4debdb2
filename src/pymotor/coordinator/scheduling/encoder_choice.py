"""Which encoder gets a media item: the same item the same encoder, as long as that one is not overloaded.

By rendezvous hashing with bounded loads (`rendezvous`). An encoder's cache thus sees the same items again; when an
encoder goes, only its own items move.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.rendezvous import first_within_bound, hashes_of, load_bound, places_of, rank_values


class NoEncoderLeft(LookupError):
    """All endpoints are excluded."""


class EncoderLook(NamedTuple):
    """Whom an item would go to, and by which figures, each for the endpoints in their order."""

    chosen: int
    loads: npt.NDArray[np.int64]
    """In tenths of a token."""
    places: npt.NDArray[np.intp]
    """In the item's own order of endpoints, 0 first; of those that are passed over too."""
    highest_load: int
    """Above which none gets the item."""


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
        self._hashes = hashes_of(endpoint_ids)

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
        scores = rank_values(self._hashes, item_key)
        kept = self._kept(excluded, avoided) if excluded or avoided else None
        if kept is not None:
            loads, scores = loads[kept], scores[kept]
        if not len(loads):
            raise NoEncoderLeft("no encoder endpoint is left to choose from")
        best = first_within_bound(scores, loads, load)
        return best if kept is None else int(kept[best])

    def look(
        self,
        item_key: int,
        load: int,
        excluded: AbstractSet[str],
        avoided: AbstractSet[str],
        more: npt.NDArray[np.int64],
    ) -> EncoderLook:
        """Whom `choose` would choose if the endpoints had `more` load than they have. Raises `NoEncoderLeft`."""
        loads = self._ledger.loads(self._rows) + more
        scores = rank_values(self._hashes, item_key)
        kept = self._kept(excluded, avoided)
        if not len(kept):
            raise NoEncoderLeft("no encoder endpoint is left to choose from")
        chosen = int(kept[first_within_bound(scores[kept], loads[kept], load)])
        return EncoderLook(chosen, loads, places_of(scores), load_bound(loads[kept], load) - 1)

    def _kept(self, excluded: AbstractSet[str], avoided: AbstractSet[str]) -> npt.NDArray[np.intp]:
        """The indices that may be chosen."""
        allowed = [index for index, name in enumerate(self._endpoint_ids) if name not in excluded]
        good = [index for index in allowed if self._endpoint_ids[index] not in avoided]
        return np.asarray(good or allowed, dtype=np.intp)
