"""A reservation takes exactly what it added, whatever happened in between and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import shared_ledgers

from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Reservation, Target
from pymotor.fleet import Endpoint, Instance, Role

ROWS = 3
TOKENS = st.integers(0, 10**6)
CHARGES = st.tuples(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, ROWS - 1), CHARGES),
        st.tuples(st.just("grow"), st.integers(0, 7), TOKENS),
        st.tuples(st.sampled_from(("worked", "end")), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("retire"), st.integers(0, ROWS - 1), st.just(0)),
    ),
    max_size=40,
)


def targets_on(ledger: Ledger) -> list[Target]:
    """One for each row."""
    instance = Instance(name="union-0", role=Role.UNION, models=("tiny",), engine="sim")
    return [
        Target(Endpoint(id=f"union-0/{row}", url="http://127.0.0.1:1"), instance, ledger, row, 1, SharedState())
        for row in range(ROWS)
    ]


@given(STEPS)
def test_nothing_is_left_of_any_interleaving(steps: list[tuple[str, int, object]]) -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        targets = targets_on(ledger)
        held: list[Reservation] = []
        for act, number, with_what in steps:
            if act == "begin":
                assert isinstance(with_what, tuple)
                active, kept, answer, kv, spare = with_what
                held.append(
                    Reservation.on(
                        targets[number], active, kept, answer_tokens=answer, kv_tokens=kv, spare_tokens=min(spare, kv)
                    )
                )
            elif act == "retire":
                # Its row goes to another endpoint, whose figures start at zero.
                targets[number].retired = True
                ledger.clear_own_row(number)
            elif number < len(held):
                reservation = held[number]
                if act == "grow":
                    assert isinstance(with_what, int)
                    reservation.grow(with_what)
                elif act == "worked":
                    reservation.worked()
                elif reservation.open:
                    reservation.end()
            for row in range(ROWS):
                assert ledger.load(row) >= 0
                assert ledger.kv(row) >= 0
        for reservation in held:
            if reservation.open:
                reservation.end()
        for row in range(ROWS):
            assert (ledger.load(row), ledger.in_flight(row), ledger.kv(row)) == (0, 0, 0)


def test_the_prompts_work_goes_first_and_the_answer_adds_to_what_is_held() -> None:
    with shared_ledgers(1, ROWS) as (ledger, _):
        reservation = Reservation.on(targets_on(ledger)[0], 100, 100, answer_tokens=10, kv_tokens=150, spare_tokens=50)
        assert (ledger.load(0), ledger.kv(0)) == (100 * 10 + 10 * 10 + 100 * 3, 150)
        reservation.worked()
        reservation.worked()
        assert ledger.load(0) == 10 * 10 + 100 * 3
        reservation.grow(40)
        assert (ledger.load(0), ledger.kv(0)) == (10 * 10 + 140 * 3, 150)
        reservation.grow(40)
        assert (ledger.load(0), ledger.kv(0)) == (10 * 10 + 180 * 3, 180)
        reservation.end()
        reservation.grow(40)
        reservation.worked()
        assert (ledger.load(0), ledger.kv(0), ledger.in_flight(0)) == (0, 0, 0)
        with pytest.raises(RuntimeError, match="released twice"):
            reservation.end()
