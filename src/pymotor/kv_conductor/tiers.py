"""The tiers of a publisher's cache, each a bit, and which of its stores tell what they evict."""

from __future__ import annotations

from typing import TypeAlias

from pymotor.kv_conductor.events import BlocksRemoved, BlocksStored

DEVICE_TIER = 1
"""The accelerator's."""
ANY_TIER = 0xFF
_EVICTIONS_TOLD = frozenset({None, "GPU", "CPU"})
"""Media whose evictions engines are known to tell. Connectors of stores that are shared do not (vLLM's for Mooncake,
which writes `cpu`, for files and objects, LMCache): what such a store held once nobody can count on."""
_TIERS = {"GPU": DEVICE_TIER, "CPU": 2, "STORAGE": 4}
_OTHER_TIER = 8


def tier_of(medium: str | None) -> int:
    """The bit of what events call the medium; None is the accelerator."""
    return DEVICE_TIER if medium is None else _TIERS.get(medium) or _TIERS.get(medium.upper(), _OTHER_TIER)


_Store: TypeAlias = tuple[str | None, str | None, str | None]
"""Medium, ownership and locality: one engine may have several stores of a medium."""


class EvictingStores:
    """The stores of one publisher that tell what they evict: those that are known to, and those that did so once."""

    def __init__(self) -> None:
        self._seen: set[_Store] = set()

    def hear(self, event: BlocksRemoved) -> None:
        """One of them did."""
        if event.ownership is not None or event.medium not in _EVICTIONS_TOLD:
            self._seen.add((event.medium, event.ownership, event.locality))

    def tells(self, event: BlocksStored) -> bool:
        """Whether the store that this event is of does."""
        if event.ownership is None and event.medium in _EVICTIONS_TOLD:
            return True
        return (event.medium, event.ownership, event.locality) in self._seen

    def clear(self) -> None:
        """It may be another engine from now on."""
        self._seen.clear()
