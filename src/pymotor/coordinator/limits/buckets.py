"""Token buckets in shared memory: exact over all worker processes, without a lock.

A bucket holds `window` seconds at most, and a second flows in each second; a request takes so many seconds as its part
of the limit is of the window: with 10 requests in 60 seconds it takes 6. In these terms a bucket's content is

    window + (now - spent) - overflow,   overflow = the greatest (now - spent) so far

where `now` is the machine's monotonic clock and `spent` all that was ever taken: what would have been above the rim has
flowed over. A process writes only its own column, which holds what it has taken and the greatest overflow it has seen
(only before something is taken can that be greater than ever before), and reads the sum and the maximum of all. So
nothing is lost when a process dies, and whoever comes after it in the column goes on from there.

What is taken is written first and taken back when the bucket turns out too empty: no two processes take the last part
both, so a bucket never gives more than it holds. Two that do so in the same microseconds may both find too little.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from time import monotonic

_CELL_BYTES = 8
_TINY = 1e-6
"""Seconds by which sums of floats may be off."""


class Buckets:
    """One process's view of all buckets, by number."""

    __slots__ = ("_alone", "_clock", "_columns", "_mapping", "_own_overflow", "_own_spent", "_view")

    def __init__(
        self,
        descriptor: int,
        offset: int,
        *,
        columns: int,
        buckets: int,
        column: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Map `size_of(columns, buckets)` zeroed bytes behind `descriptor` from `offset` on, a multiple of
        `mmap.ALLOCATIONGRANULARITY`; `column` is this process's own, `clock` the same in
        all processes."""
        self._clock = clock
        self._mapping = mmap.mmap(descriptor, size_of(columns, buckets), offset=offset)
        view = self._view = memoryview(self._mapping).cast("d")
        cells = [view[part * buckets : (part + 1) * buckets] for part in range(2 * columns)]
        self._columns = list(zip(cells[:columns], cells[columns:], strict=True))
        self._own_spent, self._own_overflow = self._columns[column]
        self._alone = columns == 1

    def take(self, bucket: int, seconds: float, window: float) -> float:
        """Take so much; 0 when it is taken, else nothing is, and so many seconds later it can be.

        More than a bucket holds is taken from a full one, which owes the rest.
        """
        own = self._own_spent
        if self._alone:
            former = own[bucket]
            flowed = self._clock() - former
            overflows = self._own_overflow
            overflow = overflows[bucket]
            if flowed > overflow:
                overflows[bucket] = overflow = flowed
            content = window + flowed - seconds - overflow
            if seconds > window:
                content += seconds - window
            if content >= -_TINY:
                own[bucket] = former + seconds
                return 0.0
            return -content
        spent = overflow = 0.0
        for spents, overflows in self._columns:
            spent += spents[bucket]
            if overflows[bucket] > overflow:
                overflow = overflows[bucket]
        now = self._clock()
        if now - spent > overflow:
            self._own_overflow[bucket] = overflow = now - spent
        former = own[bucket]
        own[bucket] = former + seconds
        # What others have taken meanwhile counts.
        spent = 0.0
        for spents, _ in self._columns:
            spent += spents[bucket]
        content = window + now - spent - overflow
        if seconds > window:
            content += seconds - window
        if content >= -_TINY:
            return 0.0
        own[bucket] = former
        return -content

    def correct(self, bucket: int, seconds: float) -> None:
        """What was taken turns out to be so much more, or less where negative."""
        self._own_spent[bucket] += seconds


def size_of(columns: int, buckets: int) -> int:
    """Bytes of so many buckets for so many processes."""
    return 2 * columns * buckets * _CELL_BYTES
