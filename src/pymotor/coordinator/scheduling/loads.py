"""Loads of endpoints that stand in for each other: a list of few, an array of many."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FEW = 32
"""So many loads are sooner read and compared one at a time than by numpy, each call of which has a fixed cost."""
Loads: TypeAlias = list[int] | npt.NDArray[np.int64]
"""One for each endpoint, in tenths of a token."""


def least_loaded(loads: Loads, turn: int) -> int:
    """The index of the least; of equals the first from `turn` on, which is less than their number. Raises `ValueError`
    without loads."""
    if isinstance(loads, list):
        least = min(loads)
        first = loads.index(least)
        if first < turn and least in (after := loads[turn:]):
            return turn + after.index(least)
        return first
    first = int(loads.argmin())
    if first >= turn:
        return first
    later = turn + int(loads[turn:].argmin())
    return later if loads[later] == loads[first] else first


def highest_of(loads: Loads) -> int:
    """The highest load. Raises `ValueError` without loads."""
    return max(loads) if isinstance(loads, list) else int(loads.max())
