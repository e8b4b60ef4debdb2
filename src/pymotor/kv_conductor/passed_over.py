"""What publishers told of and the index does not have, and why."""

from __future__ import annotations

import msgspec


class PassedOver(msgspec.Struct):
    """Numbers of blocks; of events only where it says so."""

    orphans: int = 0
    """Their parent is not known."""
    other_groups: int = 0
    """They are not of the group of full attention that counts, and only limit what counts of it."""
    other_sizes: int = 0
    """Their number of tokens is not that of the publisher's blocks."""
    too_deep: int = 0
    """After the longest prompt that has keys."""
    no_room: int = 0
    """The index is full."""
    repeated: int = 0
    """Their event names a block twice."""
    without_keys: int = 0
    """Of a lower tier, told without `extra_keys` and not told by the device before: what they are is not known."""
    evictions_untold: int = 0
    """In a tier of which the publisher never told that a block left it."""
    unknown_events: int = 0
    """Events of types that are not known."""

    def add(self, other: PassedOver) -> None:
        """Count these, too."""
        for reason, number in other.by_reason().items():
            setattr(self, reason, getattr(self, reason) + number)

    def by_reason(self) -> dict[str, int]:
        """All of them."""
        return msgspec.structs.asdict(self)
