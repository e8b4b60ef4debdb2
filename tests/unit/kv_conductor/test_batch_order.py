"""Where a batch stands in its publisher's sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pymotor.kv_conductor.batch_order import BatchOrder, Place


def test_the_first_batch_is_the_next_whatever_its_number() -> None:
    assert BatchOrder().place(7, b"x") is Place.NEXT


def test_places_after_one_that_was_applied() -> None:
    order = BatchOrder()
    order.applied(7, b"seven")
    assert order.place(8, b"x") is Place.NEXT
    assert order.place(9, b"x") is Place.MISSING_BEFORE
    assert order.place(7, b"seven") is Place.REPEATED
    assert order.place(7, b"another") is Place.RESTARTED
    assert order.place(6, b"seven") is Place.RESTARTED
    assert order.place(0, b"x") is Place.RESTARTED
    order.forget()
    assert order.place(3, b"x") is Place.NEXT


@given(st.lists(st.integers(0, 5), max_size=30))
def test_only_numbers_without_a_gap_follow_each_other(numbers: list[int]) -> None:
    order = BatchOrder()
    applied: list[int] = []
    for number in numbers:
        if order.place(number, str(number).encode()) is Place.NEXT:
            order.applied(number, str(number).encode())
            applied.append(number)
    assert applied == list(range(applied[0], applied[0] + len(applied))) if applied else not numbers
