"""The ledger: what every endpoint has been charged with, shared by all workers without a lock.

Shared memory holds one column for each worker and, in it, one row for each endpoint. A worker writes only its
own column and reads the sum over all columns, so no write can be lost and no process has to be asked. Figures
are integers: what is added is taken away exactly, and an idle fleet's ledger is zero.

Load is kept in tenths of a token: `active tokens + 0.3 * held KV tokens`, the priority of the queues in the
vLLM-Ascend proxies, becomes `10 * active + 3 * held`.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

TENTHS_PER_ACTIVE_TOKEN = 10
TENTHS_PER_HELD_TOKEN = 3

_CELL_BYTES = 8


class Ledger:
    """One worker's view of the shared memory; `column=None` reads only (the supervisor)."""

    __slots__ = ("_columns", "_in_flight", "_loads", "_mapping", "_own_in_flight", "_own_loads", "_rows", "_view")

    def __init__(self, descriptor: int, *, columns: int, rows: int, column: int | None) -> None:
        """Map the memory behind `descriptor`, which `allocate` made for the same `columns` and `rows`."""
        self._columns = columns
        self._rows = rows
        self._mapping = mmap.mmap(descriptor, columns * 2 * rows * _CELL_BYTES)
        self._view = memoryview(self._mapping).cast("q")
        cells: npt.NDArray[np.int64] = np.frombuffer(self._mapping, dtype=np.int64).reshape(columns, 2, rows)
        self._loads = cells[:, 0, :]
        self._in_flight = cells[:, 1, :]
        first = 0 if column is None else column * 2 * rows
        self._own_loads = self._view[first : first + rows]
        self._own_in_flight = self._view[first + rows : first + 2 * rows]

    @staticmethod
    def allocate(*, columns: int, rows: int) -> int:
        """Make zeroed shared memory; returns a descriptor that a child process may inherit."""
        size = columns * 2 * rows * _CELL_BYTES
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("pymotor-ledger")
        else:
            descriptor, path = tempfile.mkstemp(prefix="pymotor-ledger")
            os.unlink(path)
        os.ftruncate(descriptor, size)
        return descriptor

    @property
    def columns(self) -> int:
        """How many workers write here."""
        return self._columns

    @property
    def rows(self) -> int:
        """How many endpoints fit."""
        return self._rows

    def begin(self, row: int, load: int) -> None:
        """A leg starts: `load` tenths of a token more, one request more."""
        self._own_loads[row] += load
        self._own_in_flight[row] += 1

    def ease(self, row: int, load: int) -> None:
        """A part of a running leg's load is done with."""
        self._own_loads[row] -= load

    def end(self, row: int, load: int) -> None:
        """A leg is over: what is left of its load goes, and the request with it."""
        self._own_loads[row] -= load
        self._own_in_flight[row] -= 1

    def load(self, row: int) -> int:
        """Tenths of a token charged to `row` by all workers."""
        if self._columns == 1:
            return self._own_loads[row]
        return int(self._loads[:, row].sum())

    def in_flight(self, row: int) -> int:
        """Requests that all workers have at `row` now."""
        return int(self._in_flight[:, row].sum())

    def own(self, row: int) -> tuple[int, int]:
        """This worker's own load and requests at `row`."""
        return self._own_loads[row], self._own_in_flight[row]

    def loads(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Tenths of a token at each of `rows`, summed over all workers."""
        if self._columns == 1:
            taken: npt.NDArray[np.int64] = self._loads[0].take(rows)
            return taken
        summed: npt.NDArray[np.int64] = self._loads.take(rows, axis=1).sum(axis=0)
        return summed

    def clear_own_row(self, row: int) -> None:
        """Forget this worker's figures at a row that now belongs to another endpoint."""
        self._own_loads[row] = 0
        self._own_in_flight[row] = 0

    def clear_column(self, column: int) -> None:
        """Forget what a worker that died had charged; only for the supervisor, before it starts another."""
        self._loads[column, :] = 0
        self._in_flight[column, :] = 0


class RowBook:
    """Gives ledger rows to endpoints; kept by the supervisor alone.

    A row that is given to another endpoint gets a higher generation: a worker that learns of it clears its own
    figures there, and a leg of the former owner that ends later is recognised by its old generation.
    """

    def __init__(self, rows: int) -> None:
        """`rows` is the capacity of the ledger."""
        self._free = list(range(rows - 1, -1, -1))
        self._generations = [0] * rows
        self._taken: dict[str, int] = {}

    def assign(self, endpoints: Iterable[str]) -> dict[str, tuple[int, int]]:
        """The row and generation of each endpoint id; rows of endpoints not named any more become free.

        Raises `ValueError` when there are more endpoints than rows.
        """
        wanted = list(dict.fromkeys(endpoints))
        if len(wanted) > len(self._generations):
            raise ValueError(f"more than {len(self._generations)} endpoints: the ledger has no row left")
        for gone in self._taken.keys() - set(wanted):
            self._free.append(self._taken.pop(gone))
        for endpoint in wanted:
            if endpoint in self._taken:
                continue
            row = self._free.pop()
            self._generations[row] += 1
            self._taken[endpoint] = row
        return {endpoint: (self._taken[endpoint], self._generations[self._taken[endpoint]]) for endpoint in wanted}
