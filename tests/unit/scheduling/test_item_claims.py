"""An item that goes into a store is with one encoder at a time, whichever worker sends it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ledgers import shared_ledgers

from pymotor.coordinator.scheduling.item_claims import ItemClaims
from pymotor.coordinator.scheduling.ledger import Ledger

KEY = 0xFEDCBA9876543210


def test_who_comes_second_takes_the_encoder_that_has_the_item() -> None:
    with shared_ledgers(2, 64) as (one, two, _):
        first, second = ItemClaims(one), ItemClaims(two)
        held = first.claim(KEY, lambda holder: 7 if holder is None else holder)
        assert second.claim(KEY, lambda holder: holder if holder is not None else 9).row == 7
        other = second.claim(KEY ^ 1 << 40, lambda holder: 9 if holder is None else holder)
        assert other.row == 9, "another item with the same cells is another item"
        first.release(held)


def test_an_item_is_free_again_when_all_who_had_it_are_through() -> None:
    with shared_ledgers(2, 64) as (one, two, _):
        first, second = ItemClaims(one), ItemClaims(two)
        a = first.claim(KEY, lambda _: 0)
        b = second.claim(KEY, lambda holder: holder if holder is not None else 1)
        first.release(a)
        assert second.claim(KEY, lambda holder: 5 if holder is None else holder).row == 0
        second.release(b)
        one.clear_column(1)
        assert first.claim(KEY, lambda holder: 5 if holder is None else holder).row == 5


def test_more_items_than_cells_are_sent_all_the_same() -> None:
    with shared_ledgers(2, 64) as (one, _, _):
        claims = ItemClaims(one)
        held = [claims.claim(KEY + (number << 20), lambda _: 1) for number in range(6)]
        assert [claim.cell is None for claim in held].count(True) == 2
        for claim in held:
            claims.release(claim)
        assert not any(one.own_claims)


def test_a_choice_that_fails_leaves_nothing_behind() -> None:
    def nobody(_: int | None) -> int:
        raise LookupError("nobody is left")

    with shared_ledgers(2, 64) as (one, two, _):
        with pytest.raises(LookupError):
            ItemClaims(one).claim(KEY, nobody)
        assert not any(one.own_claims)
        assert ItemClaims(two).claim(KEY, lambda holder: 3 if holder is None else holder).row == 3


_WORKER = """
import random, sys, time
from pymotor.coordinator.scheduling.item_claims import ItemClaims
from pymotor.coordinator.scheduling.ledger import Ledger
descriptor, column = int(sys.argv[1]), int(sys.argv[2])
ledger = Ledger(descriptor, columns=2, rows=64, column=column)
claims = ItemClaims(ledger)
other = ledger.claims(1 - column)
at_odds = 0
for number in range(5000):
    claim = claims.claim(77, lambda holder: random.randrange(50) if holder is None else holder)
    noted = other[claim.cell]
    at_odds += noted != 0 and noted != ledger.own_claims[claim.cell]
    if number % 3 == 0:
        time.sleep(0)
    claims.release(claim)
print(at_odds)
"""


def test_processes_never_have_an_item_with_two_encoders() -> None:
    descriptor = Ledger.allocate(columns=2, rows=64)
    try:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(descriptor), str(column)],
                pass_fds=[descriptor],
                stdout=subprocess.PIPE,
                text=True,
            )
            for column in range(2)
        ]
        assert [worker.communicate(timeout=60)[0].strip() for worker in workers] == ["0", "0"]
    finally:
        os.close(descriptor)
