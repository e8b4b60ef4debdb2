"""Ledgers of several workers on one shared memory, released when the test is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pymotor.coordinator.scheduling.ledger import Ledger


@contextmanager
def shared_ledgers(columns: int, rows: int) -> Iterator[list[Ledger]]:
    """One ledger for each column, then one that only reads, as the supervisor has it."""
    descriptor = Ledger.allocate(columns=columns, rows=rows)
    try:
        yield [Ledger(descriptor, columns=columns, rows=rows, column=column) for column in (*range(columns), None)]
    finally:
        os.close(descriptor)
