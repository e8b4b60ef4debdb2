"""How many further tries a process may make, whatever each request is allowed.

When a whole role is slow or gone, tries that are harmless one by one multiply the load on what is left. So the
further tries of the last seconds may be at most a part of the requests of that time, plus a floor that lets a quiet
gateway try at all. The window forgets exponentially, so the budget is two numbers. The idea is that of Finagle's
`RetryBudget`.
"""

from __future__ import annotations

import math

WINDOW_SECONDS = 10.0


class RetryBudget:
    """Counts requests and further tries of one process."""

    __slots__ = ("_floor", "_ratio", "_recent", "_seen", "_since", "_spent", "requests")

    def __init__(self, ratio: float, floor: float, now: float) -> None:
        """`ratio`: tries for each request; `floor`: tries a second that are always allowed; `now`: `monotonic()`."""
        self._ratio = ratio
        self._floor = floor * WINDOW_SECONDS
        self._since = now
        self._recent = 0.0
        self._spent = 0.0
        self._seen = 0
        self.requests = 0
        """How many requests there were; whoever begins one adds it here."""

    def use(self, ratio: float, floor: float) -> None:
        """These limits hold from now on, for the same window."""
        self._ratio = ratio
        self._floor = floor * WINDOW_SECONDS

    def take(self, now: float) -> bool:
        """Whether one more try may be made at `now`; if so it is counted."""
        kept = math.exp((self._since - now) / WINDOW_SECONDS)
        self._since = now
        self._recent = self._recent * kept + (self.requests - self._seen)
        self._seen = self.requests
        self._spent *= kept
        if self._spent + 1 > self._ratio * self._recent + self._floor:
            return False
        self._spent += 1
        return True
