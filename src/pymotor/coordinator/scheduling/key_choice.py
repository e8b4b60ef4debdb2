"""The same key the same endpoint: of prompts that begin alike, or of a session.

For fleets whose engines tell nothing of their caches: what was sent to an endpoint is probably still there. By
rendezvous hashing with bounded loads (`rendezvous`), so that what begins alike stays together, no endpoint is
overloaded by it, and a change of the fleet moves only what has to move.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, Ledger
from pymotor.coordinator.scheduling.rendezvous import first_within_bound, hashes_of, load_bound, places_of, rank_values
from pymotor.coordinator.scheduling.target import Group, Target

_GROUPS = 64
"""Groups whose hashes are remembered; there are few unless circuits open and close."""


class KeyChoice:
    """Chooses by a key among the endpoints of a group; keeps nothing but their hashes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups: dict[int, tuple[Group, npt.NDArray[np.uint64]]] = {}

    def choose(self, key: int, prompt_tokens: int, group: Group, avoid: frozenset[str]) -> Target | None:
        """One of the group that is not in `avoid`, or None when there is none. `key`: 64 bits, well mixed."""
        hashes = self._hashes(group)
        targets = group.targets
        rows = group.row_array
        if avoid:
            kept = [index for index, target in enumerate(targets) if target.endpoint_id not in avoid]
            targets, rows, hashes = tuple(targets[index] for index in kept), rows[kept], hashes[kept]
        if not targets:
            return None
        loads = self._ledger.loads(rows)
        best = first_within_bound(rank_values(hashes, key), loads, TENTHS_PER_ACTIVE_TOKEN * prompt_tokens)
        return targets[best]

    def best_group(self, key: int, prompt_tokens: int, groups: Sequence[Group], avoid: frozenset[str]) -> int | None:
        """The index of the group with the one that would be chosen of all their endpoints together; None when all are
        in `avoid`."""
        kept = [
            (number, place)
            for number, group in enumerate(groups)
            for place, endpoint_id in enumerate(group.endpoint_ids)
            if endpoint_id not in avoid
        ]
        if not kept:
            return None
        known = [self._hashes(group) for group in groups]
        hashes = np.array([known[number][place] for number, place in kept], np.uint64)
        loads = self._ledger.loads(np.array([groups[number].rows[place] for number, place in kept], np.intp))
        best = first_within_bound(rank_values(hashes, key), loads, TENTHS_PER_ACTIVE_TOKEN * prompt_tokens)
        return kept[best][0]

    def places(self, key: int, group: Group) -> npt.NDArray[np.intp]:
        """Each endpoint's place in the key's order, 0 first: who is chosen is the first whose load is within the
        bound."""
        return places_of(rank_values(self._hashes(group), key))

    def _hashes(self, group: Group) -> npt.NDArray[np.uint64]:
        known = self._groups.get(id(group))
        if known is not None and known[0] is group:
            return known[1]
        if len(self._groups) >= _GROUPS:
            self._groups.clear()
        found = hashes_of(target.endpoint_id for target in group.targets)
        self._groups[id(group)] = (group, found)
        return found


def highest_load(prompt_tokens: int, loads: npt.NDArray[np.int64]) -> int:
    """The load, in tenths of a token as `loads`, above which an endpoint does not get the prompt."""
    return load_bound(loads, TENTHS_PER_ACTIVE_TOKEN * prompt_tokens) - 1
