"""Which instances do not come back, however often they are started again."""

from __future__ import annotations

from pymotor.engines.kept_servers import SETTLED_SECONDS
from pymotor.fleet import InstanceState
from pymotor.local.controller_view import SeenFleet


class Settling:
    """Counts the restarts of each instance since it last served for `SETTLED_SECONDS`."""

    def __init__(self) -> None:
        self._active_since: dict[str, float] = {}
        self._settled_at: dict[str, int] = {}
        """Restarts of long ago, by instance."""
        self._in_vain: dict[str, int] = {}

    def note(self, seen: SeenFleet, now: float) -> None:
        """Take over what was seen at `now` (`monotonic()`)."""
        self._in_vain.clear()
        for instance in seen.instances:
            name, restarts = instance.name, seen.restarts(instance.name)
            # A NodeManager that was itself started again counts from nothing.
            settled = self._settled_at[name] = min(self._settled_at.get(name, 0), restarts)
            if instance.state is not InstanceState.ACTIVE:
                self._active_since.pop(name, None)
                self._in_vain[name] = restarts - settled
            elif now - self._active_since.setdefault(name, now) >= SETTLED_SECONDS:
                self._settled_at[name] = restarts

    def restarts(self, instance: str) -> int:
        """In vain so far; 0 for one that serves."""
        return self._in_vain.get(instance, 0)
