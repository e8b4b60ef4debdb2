"""Each endpoint in its turn, whatever its load."""

from __future__ import annotations

from pymotor.coordinator.scheduling.target import Group, Target


class RoundRobin:
    """See the module. `offset` keeps workers from beginning at the same place."""

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset

    def choose(self, group: Group, avoid: frozenset[str]) -> Target | None:
        """The next of the group that is not to be avoided."""
        size = len(group.targets)
        for _ in range(size):
            target = group.targets[(group.cursor + self._offset) % size]
            group.cursor = (group.cursor + 1) % size
            if target.endpoint_id not in avoid:
                return target
        return None
