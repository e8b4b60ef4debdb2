"""How many requests of a worker are followed step by step for the dashboard."""

from __future__ import annotations

_TINY = 1e-6
"""Seconds by which sums of floats may be off."""


class TrailBudget:
    """A token bucket that holds what a second brings, kept as the time from which on it is not empty."""

    __slots__ = ("_filled", "_from", "_interval", "_rate")

    def __init__(self, per_second: float, now: float) -> None:
        """`per_second`: requests; 0: none is followed. `now` as `monotonic()` says, here and below."""
        self._from = self._filled = now
        self._rate = self._interval = 0.0
        self.use(per_second)

    def use(self, per_second: float) -> None:
        """That many from now on."""
        self._rate = per_second
        self._interval = 1.0 / per_second if per_second else float("inf")
        self._from = self._filled - self._spare

    @property
    def _spare(self) -> float:
        return max(0.0, 1.0 - self._interval + _TINY)

    def take(self, now: float) -> bool:
        """Whether one more request may be followed; it then counts. Hot path."""
        if now < self._from:
            return False
        # With none a second nothing is saved either: then the bucket is as if it were just emptied.
        self._filled = max(self._filled, now) + self._interval if self._rate else now + 1.0
        self._from = self._filled - self._spare
        return bool(self._rate)
