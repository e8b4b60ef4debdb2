"""Who holds: endpoints, their publishers, and the slots of both.

Each publisher has a slot of its own in the index. An endpoint is known to Coordinators by the slot of its first
publisher; the slots of its others are nobody's. An endpoint that balances several ranks itself holds only what all of
them hold, since nobody knows which rank a prompt will go to. Endpoints that stand for one rank have one publisher.
"""

from __future__ import annotations

import heapq
from collections import Counter

import msgspec
import numpy as np
import numpy.typing as npt

from pymotor.fleet.prefix_queries import Followed
from pymotor.kv_conductor.holder_sets import Slots
from pymotor.kv_conductor.index import MOST_HOLDERS


class TooManyHoldersError(RuntimeError):
    """No slot is left."""


class Holder(msgspec.Struct, frozen=True):
    """An endpoint's place."""

    endpoint: str
    models: tuple[str, ...]
    """The names that it serves; keys are made with the first."""
    aliases: frozenset[str]
    """Those that are known to mean the first; any other may be an adapter."""
    slots: tuple[int, ...]
    """Of its publishers, by rank."""


class Holders:
    """The endpoints that are followed."""

    def __init__(self) -> None:
        self.revision = 0
        self.several_ranks = False
        """Whether any endpoint has more than one publisher."""
        self._holders: dict[str, Holder] = {}
        self._free: list[int] = []
        self._next = 0
        self._names: dict[str, Counter[str]] = {}
        self._aliases: Counter[tuple[str, str]] = Counter()
        """Of a name and the model that keys are made with: endpoints where they mean the same."""
        self._asked_as: dict[str, tuple[tuple[str, str], ...]] = {}
        self._members = np.empty(0, np.intp)
        self._starts = np.empty(0, np.intp)
        self._firsts = np.empty(0, np.intp)
        self._others = np.zeros(MOST_HOLDERS, np.bool_)

    def __len__(self) -> int:
        return len(self._holders)

    def get(self, endpoint: str) -> Holder | None:
        """The endpoint's place, if it is followed."""
        return self._holders.get(endpoint)

    def all(self) -> list[Holder]:
        """All that are followed."""
        return list(self._holders.values())

    def followed(self) -> Followed:
        """As Coordinators are told."""
        endpoints = [""] * self._next
        for holder in self._holders.values():
            endpoints[holder.slots[0]] = holder.endpoint
        return Followed(endpoints, self.revision)

    def asked_as(self, name: str) -> tuple[tuple[str, str], ...]:
        """What a name means to the endpoints that serve it: the model that keys are made with, and the adapter.

        A name that is not known to mean the model everywhere is taken for an adapter: if it is none, its prompts match
        nothing, and otherwise they would match blocks of the model, which are of no use to them."""
        return self._asked_as.get(name, ())

    def add(self, endpoint: str, models: tuple[str, ...], ranks: int, aliases: frozenset[str] = frozenset()) -> Holder:
        """Gives slots to an endpoint that has none; `aliases` as in `Holder`. Raises TooManyHoldersError without
        changing anything."""
        if ranks > len(self._free) + MOST_HOLDERS - self._next:
            raise TooManyHoldersError(f"{endpoint} is not followed: all {MOST_HOLDERS} places of publishers are taken")
        same = frozenset(name for name in models if name == models[0] or name in aliases)
        holder = Holder(endpoint, models, same, tuple(self._take_slot() for _ in range(ranks)))
        self._holders[endpoint] = holder
        self._count_names(holder, 1)
        self._changed()
        return holder

    def remove(self, endpoint: str) -> Holder | None:
        """Takes the endpoint's slots back; None if it has none."""
        holder = self._holders.pop(endpoint, None)
        if holder is None:
            return None
        for slot in holder.slots:
            heapq.heappush(self._free, slot)
        self._count_names(holder, -1)
        self._changed()
        return holder

    def _count_names(self, holder: Holder, change: int) -> None:
        model = holder.models[0]
        for name in holder.models:
            models = self._names.setdefault(name, Counter())
            models[model] += change
            self._aliases[name, model] += change * (name in holder.aliases)
            if not models[model]:
                del models[model], self._aliases[name, model]
            self._asked_as[name] = tuple(
                (model, "" if self._aliases[name, model] == count else name) for model, count in models.items()
            )
            if not models:
                del self._names[name], self._asked_as[name]

    def join_ranks(self, tokens: npt.NDArray[np.uint32]) -> None:
        """In `tokens` (by slot, zero elsewhere), sets the first slot of endpoints with several ranks to the least of
        them; there is such an endpoint."""
        tokens[self._firsts] = np.minimum.reduceat(tokens[self._members], self._starts)

    def endpoints_of(self, slots: Slots) -> Slots:
        """Those of the slots that stand for an endpoint."""
        return slots[~self._others[slots]]

    def _take_slot(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def _changed(self) -> None:
        self.revision += 1
        several = [holder.slots for holder in self._holders.values() if len(holder.slots) > 1]
        self.several_ranks = bool(several)
        self._members = np.array([slot for slots in several for slot in slots], np.intp)
        self._starts = np.cumsum([0, *(len(slots) for slots in several)], dtype=np.intp)[:-1]
        self._firsts = np.array([slots[0] for slots in several], np.intp)
        self._others[:] = False
        for slots in several:
            self._others[list(slots[1:])] = True
