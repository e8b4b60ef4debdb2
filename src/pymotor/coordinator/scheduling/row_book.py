"""Which endpoint has which row of the ledger."""

from __future__ import annotations

from collections.abc import Iterable


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
