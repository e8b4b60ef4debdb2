"""The least loaded endpoint, exactly: the priority queue of the vLLM-Ascend proxies without its stale entries.

The load is the ledger's (see there for the formula and its unit). Endpoints of equal load take turns, where a
queue ordered by index would send everything of a quiet fleet to the first.
"""

from __future__ import annotations

import numpy as np

from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Target

_LOOP_BOUND = 16
"""Below so many endpoints a plain loop beats numpy's fixed cost."""


class LoadBalance:
    """See the module."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def choose(self, group: Group, avoid: frozenset[str]) -> Target | None:
        """The least loaded of the group that is not to be avoided; equals take turns."""
        if avoid:
            allowed = [target for target in group.targets if target.endpoint_id not in avoid]
            if not allowed:
                return None
            return min(allowed, key=lambda target: self._ledger.load(target.row))
        size = len(group.targets)
        if size <= 1:
            return group.targets[0] if size else None
        start = group.cursor if group.cursor < size else 0
        if not self._ledger.load(group.rows[start]):
            index = start  # Nothing is less than idle.
        elif size <= _LOOP_BOUND:
            index = self._least_by_loop(group, start)
        else:
            index = self._least_by_array(group, start)
        group.cursor = index + 1
        return group.targets[index]

    def _least_by_loop(self, group: Group, start: int) -> int:
        load = self._ledger.load
        rows = group.rows
        best = start
        least = load(rows[start])
        for index in (*range(start + 1, len(rows)), *range(start)):
            found = load(rows[index])
            if found < least:
                best, least = index, found
                if not found:
                    break
        return best

    def _least_by_array(self, group: Group, start: int) -> int:
        loads = self._ledger.loads(group.row_index)
        after = start + int(np.argmin(loads[start:]))
        if not start:
            return after
        before = int(np.argmin(loads[:start]))
        return before if loads[before] < loads[after] else after
