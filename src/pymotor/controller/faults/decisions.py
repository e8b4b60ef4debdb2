"""What the policies decide; each says why in words that stand in an event."""

from __future__ import annotations

import msgspec

from pymotor.fleet import Role


class Separate(msgspec.Struct, frozen=True, kw_only=True):
    """Take an instance out of service because of its hardware."""

    instance: str
    why: str


class Recover(msgspec.Struct, frozen=True, kw_only=True):
    """Let a separated instance serve again."""

    instance: str
    why: str


class ChangeRoles(msgspec.Struct, frozen=True, kw_only=True):
    """Give instances up so that there is one more of another role."""

    instances: tuple[str, ...]
    gained: Role
    """What there will be more of."""
    by_switch: bool
    """The same nodes take the role over; otherwise the instances are released, and pods of that role are started on
    the devices that they leave."""
    goal: int
    """How many active instances of `gained` there are when it has come about."""
    why: str


class Tell(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is to be done, but people should know."""

    key: str
    """Equal for the same cause, which is told once for as long as it lasts."""
    why: str


Decision = Separate | Recover | ChangeRoles | Tell
