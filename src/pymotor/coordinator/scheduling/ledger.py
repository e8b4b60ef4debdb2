"""The ledger: what every endpoint has been charged with, shared by all workers without a lock.

Shared memory holds one column for each worker and one for the supervisor and, in each, planes of one figure for each
endpoint (a row). A worker writes only its own column and reads the sum over all columns, so no write can be lost and
no process has to be asked. Figures are integers: what is added is taken away exactly, and an idle fleet's ledger is
zero.

| plane | in a worker's column | in the supervisor's |
|---|---|---|
| load | what its legs are charged with | what other gateways' requests are estimated at |
| in flight | its legs | always 0 |
| held | requests that still fetch from there what an ended leg left | always 0 |
| KV | tokens of KV cache promised to its legs (decode only) | tokens that other gateways' requests hold |
| capacity | | tokens of KV cache that fit, as the engine says; 0: not known |
| block | | tokens of a KV block; 0: not known |
| claims | items that are with an encoder: not by row, see `scheduling.item_claims` | |

Load is kept in tenths of a token: `active tokens + 0.3 * held KV tokens`, the priority of the queues in the
vLLM-Ascend proxies, becomes `10 * active + 3 * held`.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TENTHS_PER_ACTIVE_TOKEN = 10
TENTHS_PER_HELD_TOKEN = 3

Rows: TypeAlias = npt.NDArray[np.intp] | slice

_CELL_BYTES = 8
_LOAD, _IN_FLIGHT, _KV, _CAPACITY, _BLOCK, _LINE = range(6)
LINE_PLANES = 3
"""Planes behind these are for `admission`, which says what is in them."""
_CLAIMS = _LINE + LINE_PLANES
_HELD = _CLAIMS + 1
_PLANES = _HELD + 1


class Ledger:
    """One worker's view of the shared memory; `column=None` is the supervisor's."""

    __slots__ = (
        "_all",
        "_block",
        "_capacity",
        "_columns",
        "_descriptor",
        "_held_cells",
        "_in_flight_cells",
        "_kv_cells",
        "_load_cells",
        "_mapping",
        "_others_load",
        "_own_column",
        "_own_held",
        "_own_in_flight",
        "_own_kv",
        "_own_loads",
        "_rows",
        "_view",
    )

    def __init__(self, descriptor: int, *, columns: int, rows: int, column: int | None) -> None:
        """Map the memory behind `descriptor`, which `allocate` made for the same `columns` and `rows`, and which stays
        open as long as `locked_claims` is used."""
        self._descriptor = descriptor
        self._columns = columns
        self._rows = rows
        self._mapping = mmap.mmap(descriptor, _size(columns, rows))
        self._view = memoryview(self._mapping).cast("q")
        self._all: npt.NDArray[np.int64] = np.frombuffer(self._mapping, dtype=np.int64).reshape(
            columns + 1, _PLANES, rows
        )
        every = range(columns + 1)
        self._load_cells = [self._cells(number, _LOAD) for number in every]
        self._in_flight_cells = [self._cells(number, _IN_FLIGHT) for number in every[:-1]]
        self._held_cells = [self._cells(number, _HELD) for number in every[:-1]]
        self._kv_cells = [self._cells(number, _KV) for number in every]
        own = self._own_column = columns if column is None else column
        self._own_loads = self._load_cells[own]
        self._own_in_flight = self._cells(own, _IN_FLIGHT)
        self._own_held = self._cells(own, _HELD)
        self._own_kv = self._kv_cells[own]
        self._others_load = self._load_cells[columns]
        self._capacity = self._cells(columns, _CAPACITY)
        self._block = self._cells(columns, _BLOCK)

    def _cells(self, column: int, plane: int) -> memoryview:
        first = (column * _PLANES + plane) * self._rows
        return self._view[first : first + self._rows]

    @staticmethod
    def allocate(*, columns: int, rows: int, behind: int = 0) -> int:
        """Make zeroed shared memory, with so many bytes more `behind` the ledger, from `end_of` on; returns a
        descriptor that a child process may inherit."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("pymotor-ledger")
        else:
            descriptor, path = tempfile.mkstemp(prefix="pymotor-ledger")
            os.unlink(path)
        os.ftruncate(descriptor, Ledger.end_of(columns, rows) + behind)
        return descriptor

    @staticmethod
    def end_of(columns: int, rows: int) -> int:
        """Where something else can begin behind the ledger, in bytes."""
        pages = -(-_size(columns, rows) // mmap.ALLOCATIONGRANULARITY)
        return pages * mmap.ALLOCATIONGRANULARITY

    @property
    def columns(self) -> int:
        """How many workers write here."""
        return self._columns

    @property
    def rows(self) -> int:
        """How many endpoints fit."""
        return self._rows

    # -- what a worker writes

    def begin(self, row: int, load: int, kv: int = 0) -> None:
        """A leg starts: `load` tenths of a token more, `kv` tokens of KV cache promised, one request more."""
        self._own_loads[row] += load
        self._own_in_flight[row] += 1
        if kv:
            self._own_kv[row] += kv

    def grow(self, row: int, load: int, kv: int = 0) -> None:
        """A running leg turns out to cost so much more."""
        self._own_loads[row] += load
        if kv:
            self._own_kv[row] += kv

    def ease(self, row: int, load: int) -> None:
        """A part of a running leg's load is done with."""
        self._own_loads[row] -= load

    def end(self, row: int, load: int, kv: int = 0) -> None:
        """A leg is over: what is left of its load and promise goes, and the request with it."""
        self._own_loads[row] -= load
        self._own_in_flight[row] -= 1
        if kv:
            self._own_kv[row] -= kv

    def hold(self, row: int) -> None:
        """A leg at `row` is over, and what it left there is still to be fetched: the endpoint must not go."""
        self._own_held[row] += 1

    def let_go(self, row: int) -> None:
        """It was fetched, or never will be."""
        self._own_held[row] -= 1

    def clear_own_row(self, row: int) -> None:
        """Forget this worker's figures at a row that now belongs to another endpoint."""
        self._own_loads[row] = 0
        self._own_in_flight[row] = 0
        self._own_held[row] = 0
        self._own_kv[row] = 0

    # -- what everybody reads

    def load(self, row: int) -> int:
        """Tenths of a token at `row`: charged by all workers, and estimated of other gateways."""
        if self._columns == 1:
            total: int = self._load_cells[0][row] + self._others_load[row]
            return total
        return _total(self._load_cells, row)

    def charged(self, row: int) -> int:
        """Tenths of a token charged to `row` by all workers of this Coordinator."""
        return _total(self._load_cells[:-1], row)

    def others(self, row: int) -> int:
        """Tenths of a token that other gateways' requests at `row` are estimated at."""
        found: int = self._others_load[row]
        return found

    def in_flight(self, row: int) -> int:
        """Requests that all workers have at `row` now."""
        return _total(self._in_flight_cells, row)

    def held(self, row: int) -> int:
        """Requests of all workers that still fetch from `row` what a leg that is over left there."""
        return _total(self._held_cells, row)

    def kv(self, row: int) -> int:
        """Tokens of KV cache at `row` that are promised by all workers or held by other gateways' requests."""
        return _total(self._kv_cells, row)

    def promised(self, row: int) -> int:
        """Tokens of KV cache at `row` that are promised by all workers of this Coordinator."""
        return _total(self._kv_cells[:-1], row)

    def capacity(self, row: int) -> int:
        """Tokens of KV cache that fit at `row`, as its engine says; 0: not known."""
        found: int = self._capacity[row]
        return found

    def block(self, row: int) -> int:
        """Tokens of a KV block at `row`, as its engine says; 0: not known."""
        found: int = self._block[row]
        return found

    def own(self, row: int) -> tuple[int, int]:
        """This worker's own load and requests at `row`."""
        return self._own_loads[row], self._own_in_flight[row]

    def loads(self, rows: Rows) -> npt.NDArray[np.int64]:
        """As `load`, for each of `rows`."""
        return self._sums(_LOAD, rows)

    def listed_loads(self, rows: Iterable[int]) -> list[int]:
        """As `loads`; sooner done where there are few."""
        if self._columns == 1:
            own, others = self._load_cells
            return [own[row] + others[row] for row in rows]
        cells = self._load_cells
        return [_total(cells, row) for row in rows]

    def requests(self, rows: Rows) -> npt.NDArray[np.int64]:
        """As `in_flight`, for each of `rows`."""
        return self._sums(_IN_FLIGHT, rows)

    def promises(self, rows: Rows) -> npt.NDArray[np.int64]:
        """As `kv`, for each of `rows`."""
        return self._sums(_KV, rows)

    def capacities(self, rows: Rows) -> npt.NDArray[np.int64]:
        """As `capacity`, for each of `rows`."""
        return self._all[self._columns, _CAPACITY, rows]

    def blocks(self, rows: Rows) -> npt.NDArray[np.int64]:
        """As `block`, for each of `rows`."""
        return self._all[self._columns, _BLOCK, rows]

    def _sums(self, plane: int, rows: Rows) -> npt.NDArray[np.int64]:
        summed: npt.NDArray[np.int64]
        if isinstance(rows, slice):
            if self._columns == 1:
                summed = self._all[0, plane, rows] + self._all[1, plane, rows]
            else:
                summed = self._all[:, plane, rows].sum(axis=0)
            return summed
        summed = self._all[0, plane].take(rows)
        for column in range(1, self._columns + 1):
            summed += self._all[column, plane].take(rows)
        return summed

    # -- what only the supervisor writes

    def set_others(self, row: int, load: int, kv: int) -> None:
        """What other gateways' requests at `row` are estimated to weigh, and the KV cache they hold."""
        self._load_cells[self._columns][row] = load
        self._kv_cells[self._columns][row] = kv

    def set_capacity(self, row: int, tokens: int, block: int) -> None:
        """What fits into the KV cache of the endpoint at `row`; zeros for an endpoint nothing is known of."""
        self._block[row] = block
        self._capacity[row] = tokens

    def clear_column(self, column: int) -> None:
        """Forget what a worker that died had charged; before another is started."""
        self._all[column] = 0

    def line(self, column: int, plane: int) -> memoryview:
        """The cells of `column` in one of the `LINE_PLANES`, one for each row; only that worker may write them."""
        return self._cells(column, _LINE + plane)

    def claims(self, column: int) -> memoryview:
        """What `column` has noted of items that are with encoders, `rows` cells; only that worker may write them."""
        return self._cells(column, _CLAIMS)

    @property
    def own_claims(self) -> memoryview:
        """As `claims`, of this column."""
        return self.claims(self._own_column)

    @contextlib.contextmanager
    def locked_claims(self, cell: int) -> Iterator[None]:
        """Have the cells that belong together with `cell`, in all columns, to oneself; others wait, so nothing may be
        waited for within. The kernel's lock, which ends with the process."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, cell)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, cell)


def _size(columns: int, rows: int) -> int:
    return (columns + 1) * _PLANES * rows * _CELL_BYTES


def _total(cells: list[memoryview], row: int) -> int:
    # Quicker than numpy for as many workers as there are.
    total = 0
    for column in cells:
        total += column[row]
    return total
