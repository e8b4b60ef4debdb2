"""What has happened in the fleet: the newest events, each with a number that only grows."""

from __future__ import annotations

from collections import deque

import msgspec

KEPT = 4096
"""Older events are forgotten; the log has them."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a state, or one decision."""

    id: int
    time: float
    """Seconds since 1970."""
    kind: str
    """`instance_active`, `node_silent`, `drain_begins` …"""
    why: str
    """In words for a person."""
    instance: str = ""
    node: str = ""


class History:
    """A ring of events."""

    def __init__(self, wall_ahead: float = 0.0, kept: int = KEPT) -> None:
        """`wall_ahead`: seconds to add to a `now` to have seconds since 1970."""
        self.wall_ahead = wall_ahead
        self._events: deque[Event] = deque(maxlen=kept)
        self._next = 1

    @property
    def newest(self) -> int:
        """The id of the newest event; 0 where there is none."""
        return self._next - 1

    def add(self, now: float, kind: str, why: str, *, instance: str = "", node: str = "") -> Event:
        """Remember one; `now` in the seconds of whoever adds."""
        event = Event(id=self._next, time=now + self.wall_ahead, kind=kind, why=why, instance=instance, node=node)
        self._next += 1
        self._events.append(event)
        return event

    def after(self, event_id: int, limit: int = KEPT) -> list[Event]:
        """Those with a greater id, oldest first, at most `limit`."""
        return [event for event in self._events if event.id > event_id][:limit]
