"""The least loaded endpoint, exactly: the priority queue of the vLLM-Ascend proxies without its stale entries.

The load is the ledger's (see there for the formula and its unit). Endpoints of equal load take turns, where a
queue ordered by index would send everything of a quiet fleet to the first.
"""

from __future__ import annotations

from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.loads import least_loaded
from pymotor.coordinator.scheduling.target import Group, Target


class LoadBalance:
    """See the module."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def choose(self, group: Group, avoid: frozenset[str]) -> Target | None:
        """The least loaded of the group that is not to be avoided; equals take turns."""
        if avoid:
            return self._least_of_allowed(group, avoid)
        size = len(group.targets)
        if size <= 1:
            return group.targets[0] if size else None
        start = group.cursor if group.cursor < size else 0
        # Nothing is less than idle.
        index = least_loaded(group.loads(self._ledger), start) if self._ledger.load(group.rows[start]) else start
        group.cursor = index + 1
        return group.targets[index]

    def _least_of_allowed(self, group: Group, avoid: frozenset[str]) -> Target | None:
        allowed = [place for place, endpoint_id in enumerate(group.endpoint_ids) if endpoint_id not in avoid]
        if not allowed:
            return None
        loads = self._ledger.listed_loads([group.rows[place] for place in allowed])
        return group.targets[allowed[least_loaded(loads, 0)]]
