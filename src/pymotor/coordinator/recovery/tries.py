"""How often one request may be tried again."""

from __future__ import annotations

from collections import Counter

from pymotor.coordinator.recovery.recomputed import RECOMPUTED
from pymotor.coordinator.settings import Settings

TRIED, EXHAUSTED, BUDGET, DEADLINE, UNBUFFERED = "tried", "exhausted", "budget", "deadline", "unbuffered"


class Tries:
    """The further tries of one request.

    | failure | further tries |
    |---|---|
    | refused connection, 408, 429, 503, handoff too late | `transport_max_retry` for each leg |
    | reset, time-out, other 5xx | `engine_failure_max_retry` in all: the request may be what broke the engine |
    | answer given up (`recomputed`) | `recompute_max_retry`, none unless `recompute_enabled` |
    | any | `max_retry` in all |
    """

    __slots__ = ("_of_leg", "_risky", "_settings", "count")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._of_leg: Counter[str] = Counter()
        self._risky = 0
        self.count = 0
        """Further tries so far."""

    def left(self, leg: str, reason: str, *, harmless: bool) -> bool:
        """Whether the request may be tried again after `leg` failed for `reason`; notes the failure. `harmless`:
        the request cannot be what broke the engine."""
        settings = self._settings
        allowed = settings.max_retry
        if reason == RECOMPUTED:
            self._of_leg[RECOMPUTED] += 1
            if self._of_leg[RECOMPUTED] > (settings.recompute_max_retry if settings.recompute_enabled else 0):
                return False
            allowed = max(allowed, settings.recompute_max_retry)
        else:
            self._of_leg[leg] += 1
            if self._of_leg[leg] > settings.transport_max_retry:
                return False
        if not harmless:
            self._risky += 1
            if self._risky > settings.engine_failure_max_retry:
                return False
        if self.count >= allowed:
            return False
        self.count += 1
        return True
