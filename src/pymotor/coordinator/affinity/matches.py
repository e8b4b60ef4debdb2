"""What the endpoints hold of one prompt's beginning, as far as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pymotor.coordinator.scheduling.kv_affinity import Figures
from pymotor.coordinator.scheduling.target import Group

FEW = 16
"""So many are sooner looked at one at a time."""
_GROUPS = 64
"""Groups whose places are remembered; there are few unless circuits open and close."""


class Holders:
    """The endpoints that somebody answers for, in the order of the answers' slots."""

    __slots__ = ("_groups", "_places", "_slots", "revision", "size")

    def __init__(self, endpoints: Sequence[str], revision: int = 0) -> None:
        """`endpoints` are ids; an empty text is nobody's slot."""
        self.revision = revision
        self.size = len(endpoints)
        self._slots = {endpoint: slot for slot, endpoint in enumerate(endpoints) if endpoint}
        self._groups: dict[int, tuple[Group, npt.NDArray[np.intp]]] = {}
        self._places: dict[int, tuple[Group, npt.NDArray[np.intp]]] = {}

    def slots_of(self, group: Group) -> npt.NDArray[np.intp]:
        """The slot of each of the group's endpoints; `size` for one that nobody answers for."""
        known = self._groups.get(id(group))
        if known is not None and known[0] is group:
            return known[1]
        if len(self._groups) >= _GROUPS:
            self._groups.clear()
        slots = [self._slots.get(target.endpoint_id, self.size) for target in group.targets]
        found = np.array(slots, dtype=np.intp)
        self._groups[id(group)] = (group, found)
        return found

    def has_any_of(self, group: Group) -> bool:
        """Whether somebody answers for one of the group's endpoints at least."""
        # Mostly for all: then one look is enough.
        return group.targets[0].endpoint_id in self or bool((self.slots_of(group) < self.size).any())

    def places_of(self, group: Group) -> npt.NDArray[np.intp]:
        """For each slot its endpoint's place in the group; -1 for one that is not in it."""
        known = self._places.get(id(group))
        if known is not None and known[0] is group:
            return known[1]
        if len(self._places) >= _GROUPS:
            self._places.clear()
        found = np.full(self.size + 1, -1, np.intp)
        found[self.slots_of(group)] = np.arange(len(group))
        found[self.size] = -1
        self._places[id(group)] = (group, found)
        return found

    def __contains__(self, endpoint_id: str) -> bool:
        return endpoint_id in self._slots


class Matches:
    """The answer to one question. What is not named is 0."""

    __slots__ = ("_any", "_device", "_expected", "_slots", "holders", "number")

    def __init__(
        self,
        holders: Holders,
        number: int,
        slots: Sequence[int],
        on_device: Sequence[int],
        in_any_tier: Sequence[int],
        expected: Sequence[int],
    ) -> None:
        """`number` is the question's; the others are as in `pymotor.fleet.prefix_queries.PrefixMatches`."""
        self.holders = holders
        self.number = number
        self._slots = slots
        self._device = on_device
        self._any = in_any_tier
        self._expected = expected

    def without_tokens(self) -> Matches:
        """The answer as if nobody held anything."""
        return Matches(self.holders, self.number, (), (), (), ())

    def expected(self, group: Group) -> npt.NDArray[np.int64]:
        """Tokens for each of the group's endpoints, with what was just sent there."""
        return self._of(group, self._expected)

    def holding(self, group: Group) -> tuple[Figures, Figures]:
        """The places in the group of those that are expected to hold something, and tokens for each."""
        place_of = self.holders.places_of(group)
        if len(self._slots) <= FEW:
            found = [place_of.item(slot) for slot in self._slots]
            if min(found, default=0) >= 0:
                return found, self._expected
        places, tokens = place_of[np.asarray(self._slots, np.intp)], np.asarray(self._expected)
        inside = places >= 0
        return places[inside], tokens[inside]

    def on_device(self, group: Group) -> npt.NDArray[np.int64]:
        """Tokens in the accelerator's memory, as the engines told."""
        return self._of(group, self._device)

    def in_any_tier(self, group: Group) -> npt.NDArray[np.int64]:
        """Tokens wherever the endpoint finds them, as the engines told."""
        return self._of(group, self._any)

    def _of(self, group: Group, tokens: Sequence[int]) -> npt.NDArray[np.int64]:
        by_slot = np.zeros(self.holders.size + 1, dtype=np.int64)
        by_slot[np.asarray(self._slots, np.intp)] = tokens
        return by_slot[self.holders.slots_of(group)]


class Expected(Protocol):
    """What endpoints are expected to hold of a prompt."""

    number: int

    def expected(self, group: Group) -> npt.NDArray[np.int64]:
        """Tokens for each of the group's endpoints."""

    def holding(self, group: Group) -> tuple[Figures, Figures]:
        """The places in the group of those that hold something, and tokens for each; either may be an array."""
