"""How long to wait before a further try."""

from __future__ import annotations

import random

LONGEST_PAUSE = 5.0


def pause_before(first: float, tries: int) -> float:
    """Seconds before the next try after `tries` further ones: between 0 and `first`, doubled each time (full
    jitter, so that requests that failed together do not come back together)."""
    return min(LONGEST_PAUSE, first * float(2 ** min(tries, 16))) * random.random()
