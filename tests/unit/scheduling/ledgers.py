"""Ledgers of several workers on one shared memory, released when the test is over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import Endpoint, Instance, Role


@contextmanager
def shared_ledgers(columns: int, rows: int) -> Iterator[list[Ledger]]:
    """One ledger for each column, then one that only reads, as the supervisor has it."""
    descriptor = Ledger.allocate(columns=columns, rows=rows)
    try:
        yield [Ledger(descriptor, columns=columns, rows=rows, column=column) for column in (*range(columns), None)]
    finally:
        os.close(descriptor)


@contextmanager
def endpoints_of(
    count: int, role: Role = Role.UNION, hosts: Sequence[str] = ("127.0.0.1",)
) -> Iterator[tuple[Ledger, list[Target]]]:
    """A ledger and an endpoint for each of its rows, on the hosts in turn."""
    with shared_ledgers(1, count) as (ledger, _):
        yield (
            ledger,
            [
                Target(
                    Endpoint(id=f"{role.value}-{row}/0", url=f"http://{hosts[row % len(hosts)]}:1"),
                    Instance(name=f"{role.value}-{row}", role=role, models=("tiny",), engine="sim"),
                    ledger,
                    row,
                    1,
                    SharedState(),
                )
                for row in range(count)
            ],
        )


def group_of(targets: Sequence[Target]) -> Group:
    """They can stand in for each other."""
    return Group(targets)
