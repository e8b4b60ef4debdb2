"""A hash table from 64-bit keys to rows of typed columns: what a dict would hold, in a third of its memory.

Open addressing with linear probing. Keys are digests, so their low bits need no more mixing. One key at a time goes
through plain Python, many at once through numpy; both see the same memory.
"""

from __future__ import annotations

from array import array
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]

_EMPTY = -1
_REMOVED = -2
_FULLEST = 0.6
"""Share of places that may be written before a sweep."""
_FULL_OF_ROWS = 0.45
"""Share that rows alone may have, so that sweeps are rare."""
_FEW = 24
"""So many are done sooner one at a time."""
_SMALLEST = 64
_NOTHING: Rows = np.empty(0, np.intp)


class KeyTable:
    """Rows are small numbers, given again after they were removed. Subclasses name columns beside `keys`."""

    columns: ClassVar[dict[str, str]] = {}
    """Attribute and type code (as in `array`) of each column."""

    def __init__(self) -> None:
        self.keys: array[int] = array("Q")
        for name, code in self.columns.items():
            setattr(self, name, array(code))
        self._places: array[int] = array("i")
        self._mask = 0
        self._wide_mask = np.uint64(0)
        self._written = 0
        """Places that are not empty: rows, and what removed ones left."""
        self._most_written = 0
        self._used = 0
        """Rows ever given; those after it were never used."""
        self._free: array[int] = array("i")
        self._resize(_SMALLEST)

    def __len__(self) -> int:
        return self._used - len(self._free)

    @property
    def memory_bytes(self) -> int:
        """Of all arrays."""
        row_bytes: int = self.keys.itemsize + sum(getattr(self, name).itemsize for name in self.columns)
        return len(self.keys) * row_bytes + len(self._places) * 4 + len(self._free) * 4

    def find(self, key: int) -> int:
        """The key's row, -1 without one."""
        places, keys, mask = self._places, self.keys, self._mask
        place = key & mask
        while (row := places[place]) != _EMPTY:
            if row >= 0 and keys[row] == key:
                return row
            place = (place + 1) & mask
        return -1

    def _search(self, key: int) -> tuple[int, int]:
        """Likewise, with the place where the search ended."""
        places, keys, mask = self._places, self.keys, self._mask
        place = key & mask
        while (row := places[place]) != _EMPTY:
            if row >= 0 and keys[row] == key:
                return row, place
            place = (place + 1) & mask
        return -1, place

    def find_many(self, keys: Keys) -> tuple[Rows, Rows]:
        """The row of each key, -1 for one without; and where the search for it ended, for `add_many`."""
        places, own = np.frombuffer(self._places, np.int32), np.frombuffer(self.keys, np.uint64)
        ends = self._first_places(keys)
        if not self._written:
            return np.full(len(keys), -1, np.intp), ends
        found = places.take(ends).astype(np.intp)
        pending = (found != _EMPTY).nonzero()[0]
        rows = found.take(pending)
        pending = pending[(rows < 0) | (own.take(rows) != keys.take(pending))]
        while len(pending) > _FEW:
            at = (ends.take(pending) + 1) & self._mask
            rows = places.take(at)
            ends[pending], found[pending] = at, rows
            pending = pending[(rows != _EMPTY) & ((rows < 0) | (own.take(rows) != keys.take(pending)))]
        for place in pending.tolist():
            found[place], ends[place] = self._search(int(keys[place]))
        return found, ends

    def add(self, key: int) -> int:
        """A row for a key that has none. Its columns are zero."""
        if self._written >= self._most_written or (not self._free and self._used == len(self.keys)):
            self._make_room(1)
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
        self.keys[row] = key
        places, mask = self._places, self._mask
        place = key & mask
        while (there := places[place]) >= 0:
            place = (place + 1) & mask
        places[place] = row
        self._written += there == _EMPTY
        return row

    def add_many(self, keys: Keys, ends: Rows) -> Rows:
        """A row for each of the keys, which differ and have none. Their columns are zero. `ends` is from `find_many`,
        since which nothing was added."""
        count = len(keys)
        if len(self) + count > len(self.keys) or self._written + count > self._most_written:
            self._make_room(count)
            ends = self._first_places(keys)
        again = min(count, len(self._free))
        used = self._used
        rows: Rows = np.arange(used - again, used + count - again)
        if again:
            rows[:again] = np.frombuffer(self._free, np.int32)[-again:]
            del self._free[-again:]
        np.frombuffer(self.keys, np.uint64)[rows] = keys
        self._used = used + count - again
        self._place_many(rows, ends)
        return rows

    def remove(self, row: int) -> None:
        """Takes a row out, and sets its columns to zero for who gets it next."""
        self._vacate(row, self.keys[row] & self._mask)
        for name in self.columns:
            getattr(self, name)[row] = 0
        self._free.append(row)

    def remove_many(self, rows: Rows) -> None:
        """Takes rows out, which all differ."""
        places = np.frombuffer(self._places, np.int32)
        at = self._first_places(np.frombuffer(self.keys, np.uint64)[rows])
        pending = np.asarray(rows)
        while len(pending) > _FEW:
            here = places[at] == pending
            places[at[here]] = _REMOVED
            pending, at = pending[~here], (at[~here] + 1) & self._mask
        for row, place in zip(pending.tolist(), at.tolist(), strict=True):
            self._vacate(row, place)
        for name, code in self.columns.items():
            np.frombuffer(getattr(self, name), np.dtype(code))[rows] = 0
        self._free.frombytes(np.asarray(rows, np.int32).tobytes())

    def rows(self) -> Rows:
        """All rows in use."""
        places = np.frombuffer(self._places, np.int32)
        return places[places >= 0].astype(np.intp)

    def clear(self) -> None:
        """Takes all rows out and gives their memory back."""
        self._used = self._written = 0
        self._free = array("i")
        self._places = array("i")
        self.keys = array("Q")
        for name, code in self.columns.items():
            setattr(self, name, array(code))
        self._resize(_SMALLEST)

    def _vacate(self, row: int, place: int) -> None:
        places, mask = self._places, self._mask
        while places[place] != row:
            place = (place + 1) & mask
        places[place] = _REMOVED

    def _place(self, row: int, place: int) -> None:
        places, mask = self._places, self._mask
        while (there := places[place]) >= 0:
            place = (place + 1) & mask
        places[place] = row
        self._written += there == _EMPTY

    def _place_many(self, rows: Rows, at: Rows) -> None:
        """From these places on."""
        places = np.frombuffer(self._places, np.int32)
        while len(rows) > _FEW:
            before = places.take(at)
            if (before == _EMPTY).all():
                # As after a search: only rows that want the same place are in each other's way.
                places[at] = rows
                settled = places.take(at) == rows
                self._written += int(np.count_nonzero(settled))
            else:
                free = before < 0
                places[at[free]] = rows[free]
                settled = places.take(at) == rows
                self._written += int(np.count_nonzero(before[settled] == _EMPTY))
            pending = (~settled).nonzero()[0]
            rows, at = rows.take(pending), (at.take(pending) + 1) & self._mask
        for row, place in zip(rows.tolist(), at.tolist(), strict=True):
            self._place(row, place)

    def _make_room(self, count: int) -> None:
        """For so many more rows; also sweeps away what removed rows left."""
        wanted = len(self) + count
        self._resize(max(wanted, len(self.keys) if wanted <= len(self.keys) else len(self.keys) * 4 // 3))

    def _resize(self, capacity: int) -> None:
        for name, code in {"keys": "Q", **self.columns}.items():
            old = getattr(self, name)
            if len(old) != capacity:
                new = array(code, (0,)) * capacity
                memoryview(new)[: len(old)] = old
                setattr(self, name, new)
        size = 1 << int(capacity / _FULL_OF_ROWS).bit_length()
        if size == len(self._places) and self._written == len(self):
            return
        live = self.rows() if len(self) else _NOTHING
        self._places = array("i", (_EMPTY,)) * size
        self._most_written = int(size * _FULLEST)
        self._mask = size - 1
        self._wide_mask = np.uint64(size - 1)
        self._written = 0
        if not len(live):
            return
        self._place_many(live, self._first_places(np.frombuffer(self.keys, np.uint64)[live]))

    def _first_places(self, keys: Keys) -> Rows:
        """Where the search for each begins."""
        # As many bits as places need, so that the conversion need not be checked.
        places: Rows = (keys & self._wide_mask).view(np.intp)
        return places
