"""The ledger's sums are exact whatever the workers do, and rows change hands by generation."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from ledgers import shared_ledgers

from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.row_book import RowBook

ROWS = 5
COLUMNS = 3
LOADS = st.integers(min_value=0, max_value=10**12)


class LedgerMachine(RuleBasedStateMachine):
    """Legs begin, grow, ease and end on several workers; a plain dictionary says what must be in the ledger."""

    legs = Bundle("legs")

    def __init__(self) -> None:
        super().__init__()
        self._scope = shared_ledgers(COLUMNS, ROWS)
        self.ledgers = self._scope.__enter__()
        self.running: dict[int, tuple[int, int, int, int]] = {}
        self.others = [(0, 0)] * ROWS
        self.number = 0

    def teardown(self) -> None:
        self._scope.__exit__(None, None, None)

    @rule(target=legs, column=st.integers(0, COLUMNS - 1), row=st.integers(0, ROWS - 1), load=LOADS, kv=LOADS)
    def begin(self, column: int, row: int, load: int, kv: int) -> int:
        self.ledgers[column].begin(row, load, kv)
        self.number += 1
        self.running[self.number] = (column, row, load, kv)
        return self.number

    @rule(leg=legs, load=LOADS, kv=LOADS)
    def grow(self, leg: int, load: int, kv: int) -> None:
        if leg in self.running:
            column, row, former_load, former_kv = self.running[leg]
            self.ledgers[column].grow(row, load, kv)
            self.running[leg] = (column, row, former_load + load, former_kv + kv)

    @rule(leg=legs, part=st.fractions(0, 1))
    def ease(self, leg: int, part: float) -> None:
        if leg not in self.running:  # forgotten when its worker died
            return
        column, row, load, kv = self.running[leg]
        gone = int(load * part)
        self.ledgers[column].ease(row, gone)
        self.running[leg] = (column, row, load - gone, kv)

    @rule(leg=consumes(legs))
    def end(self, leg: int) -> None:
        if leg not in self.running:
            return
        column, row, load, kv = self.running.pop(leg)
        self.ledgers[column].end(row, load, kv)

    @rule(row=st.integers(0, ROWS - 1), load=LOADS, kv=LOADS)
    def other_gateways_send_requests(self, row: int, load: int, kv: int) -> None:
        self.ledgers[-1].set_others(row, load, kv)
        self.others[row] = (load, kv)

    @rule(column=st.integers(0, COLUMNS - 1))
    def worker_dies(self, column: int) -> None:
        self.ledgers[-1].clear_column(column)
        self.running = {leg: kept for leg, kept in self.running.items() if kept[0] != column}

    @rule(column=st.integers(0, COLUMNS - 1), row=st.integers(0, ROWS - 1))
    def row_changes_hands(self, column: int, row: int) -> None:
        self.ledgers[column].clear_own_row(row)
        self.running = {leg: kept for leg, kept in self.running.items() if kept[:2] != (column, row)}

    @invariant()
    def every_view_shows_the_exact_sum(self) -> None:
        loads = [0] * ROWS
        promised = [0] * ROWS
        counts = [0] * ROWS
        own = [[(0, 0) for _ in range(ROWS)] for _ in range(COLUMNS)]
        for column, row, load, kv in self.running.values():
            loads[row] += load
            promised[row] += kv
            counts[row] += 1
            own[column][row] = (own[column][row][0] + load, own[column][row][1] + 1)
        with_others = [load + other for load, (other, _) in zip(loads, self.others, strict=True)]
        rows = np.arange(ROWS)
        for view in self.ledgers:
            assert view.loads(rows).tolist() == with_others
            assert view.loads(slice(1, ROWS)).tolist() == with_others[1:]
            assert [view.load(row) for row in range(ROWS)] == with_others
            assert view.listed_loads([2, 0]) == [with_others[2], with_others[0]]
            assert [one - other for one, (_, other) in zip(view.promises(rows).tolist(), self.others, strict=True)] == (
                promised
            )
            assert [view.charged(row) for row in range(ROWS)] == loads
            assert [view.in_flight(row) for row in range(ROWS)] == counts
            assert view.requests(rows).tolist() == counts
            assert [view.kv(row) - self.others[row][1] for row in range(ROWS)] == promised
        for column in range(COLUMNS):
            assert [self.ledgers[column].own(row) for row in range(ROWS)] == own[column]


TestLedger = LedgerMachine.TestCase


def test_one_column_reads_as_many() -> None:
    with shared_ledgers(1, ROWS) as (worker, reader):
        worker.begin(2, 70)
        for view in (worker, reader):
            assert view.load(2) == 70
            assert view.loads(np.asarray([2, 0, 2])).tolist() == [70, 0, 70]
            assert view.loads(slice(1, 4)).tolist() == view.listed_loads(range(1, 4)) == [0, 70, 0]
            assert view.in_flight(2) == 1


_CHILD = """
import sys
from pymotor.coordinator.scheduling.ledger import Ledger
descriptor, column = int(sys.argv[1]), int(sys.argv[2])
ledger = Ledger(descriptor, columns=2, rows=4, column=column)
for number in range(20_000):
    ledger.begin(number % 4, 7 + column)
    if number >= 100:
        ledger.end((number - 100) % 4, 7 + column)
"""


def test_processes_that_write_at_once_lose_nothing() -> None:
    descriptor = Ledger.allocate(columns=2, rows=4)
    try:
        children = [
            subprocess.Popen([sys.executable, "-c", _CHILD, str(descriptor), str(column)], pass_fds=[descriptor])
            for column in range(2)
        ]
        assert [child.wait(timeout=60) for child in children] == [0, 0]
        reader = Ledger(descriptor, columns=2, rows=4, column=None)
        assert reader.loads(np.arange(4)).tolist() == [25 * 7 + 25 * 8] * 4
        assert [reader.in_flight(row) for row in range(4)] == [50] * 4
    finally:
        os.close(descriptor)


ENDPOINTS = st.lists(st.sampled_from([f"prefill-{number}/0" for number in range(12)]), max_size=8)


@given(st.lists(ENDPOINTS, max_size=20))
def test_rows_are_kept_while_named_and_change_hands_with_a_higher_generation(steps: list[list[str]]) -> None:
    book = RowBook(8)
    former: dict[str, tuple[int, int]] = {}
    highest: dict[int, tuple[int, str]] = {}
    for step in steps:
        rows = book.assign(step)
        assert set(rows) == set(step)
        assert len({row for row, _ in rows.values()}) == len(rows), "two endpoints share a row"
        for endpoint, (row, generation) in rows.items():
            assert 0 <= row < 8
            if endpoint in former:
                assert rows[endpoint] == former[endpoint], "an endpoint that stays keeps its row"
                continue
            assert generation > highest.get(row, (0, ""))[0], "a new owner has a higher generation"
            highest[row] = (generation, endpoint)
        former = rows


def test_an_endpoint_that_was_gone_comes_back_with_another_generation() -> None:
    book = RowBook(1)
    first = book.assign(["decode-0/0"])["decode-0/0"]
    book.assign([])
    second = book.assign(["decode-0/0"])["decode-0/0"]
    assert second[0] == first[0]
    assert second[1] > first[1]


def test_more_endpoints_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 2 endpoints"):
        RowBook(2).assign(["a", "b", "c"])
