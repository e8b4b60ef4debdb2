"""Which encoder has a media item now, known to all workers: an item that is to be in a store goes to one at a time.

Two encoders that write one item at once are a danger to whoever reads it: safetensors before 0.8 writes into the file
that is there, and a reader that has it open sees it cut off. Within a worker equal items are one leg
(`scheduling.encodings`). Between workers each publishes in its own column of the ledger which item it has with which
encoder; one that is about to choose an encoder looks at all columns first, and takes the one that has the item.
Look and claim are one step under a lock on the bytes of the item's cells: a lock of the kernel's, which ends with a
worker that dies, and for which only workers with the same item at the same microsecond wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pymotor.coordinator.scheduling.ledger import Ledger

_PROBES = 4
"""Cells in which an item may be noted."""
_ROW_BITS = 14
_DIGEST_MASK = (1 << 48) - 1


class Claim(NamedTuple):
    """An item of this worker's that is with an encoder, until `ItemClaims.release`."""

    row: int
    """The encoder's ledger row."""
    cell: int | None
    """Where it is noted; None when there was no free cell."""


class ItemClaims:
    """One worker's view. Does nothing where there is only one worker."""

    __slots__ = ("_columns", "_ledger", "_own", "needed")

    def __init__(self, ledger: Ledger) -> None:
        """Raises `ValueError` when a ledger row does not fit beside an item's digest."""
        if ledger.rows >= 1 << _ROW_BITS:
            raise ValueError(f"{ledger.rows} ledger rows are more than claims can name")
        self._ledger = ledger
        self._own = ledger.own_claims
        self._columns = [ledger.claims(column) for column in range(ledger.columns)]
        self.needed = ledger.columns > 1
        """Whether there is anybody to agree with."""

    def claim(self, item_key: int, choose: Callable[[int | None], int]) -> Claim:
        """Choose an encoder for the item and note it for all workers.

        `item_key`: 64 bits, well mixed. `choose` is told the ledger row of the encoder that has the item, or None, and
        returns the row of the one that gets it; what it raises goes on. It must not wait.
        """
        first = item_key % self._ledger.rows
        cells = [(first + step) % self._ledger.rows for step in range(_PROBES)]
        mark = (item_key >> 16 & _DIGEST_MASK) << _ROW_BITS
        with self._ledger.locked_claims(first):
            row = choose(self._holder(cells, mark))
            for cell in cells:
                if not self._own[cell]:
                    self._own[cell] = mark | row + 1
                    return Claim(row, cell)
        return Claim(row, None)

    def release(self, claim: Claim) -> None:
        """The item is not with that encoder any more."""
        if claim.cell is not None:
            self._own[claim.cell] = 0

    def _holder(self, cells: list[int], mark: int) -> int | None:
        for column in self._columns:
            for cell in cells:
                noted = column[cell]
                if noted >> _ROW_BITS << _ROW_BITS == mark and noted:
                    return int(noted - mark) - 1
        return None
