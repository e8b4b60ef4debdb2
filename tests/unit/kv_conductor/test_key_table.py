"""The table against a dict, whatever is done to it."""

from __future__ import annotations

import random
from array import array
from typing import ClassVar

import numpy as np
import pytest

from pymotor.kv_conductor.key_table import KeyTable


class Numbers(KeyTable):
    number: array[int]
    columns: ClassVar[dict[str, str]] = {"number": "I"}


@pytest.mark.parametrize("spread", [1 << 64, 4096], ids=["digests", "keys close together"])
def test_it_is_a_dict(spread: int) -> None:
    choose = random.Random(spread)
    table, rows = Numbers(), {}
    for step in range(600):
        fresh = list({choose.randrange(spread) for _ in range(choose.choice((1, 5, 300)))} - rows.keys())
        if choose.random() < 0.55:
            if choose.random() < 0.5:
                keys = np.array(fresh, np.uint64)
                added = table.add_many(keys, table.find_many(keys)[1]).tolist()
            else:
                added = [table.add(key) for key in fresh]
            for key, row in zip(fresh, added, strict=True):
                assert table.number[row] == 0
                table.number[row] = key % 1000
                rows[key] = row
        else:
            gone = choose.sample(list(rows), min(len(rows), choose.choice((1, 5, 300))))
            if choose.random() < 0.5:
                table.remove_many(np.array([rows.pop(key) for key in gone], np.intp))
            else:
                for key in gone:
                    table.remove(rows.pop(key))
        if step % 20 == 0:
            asked = [*rows, *fresh]
            found = table.find_many(np.array(asked, np.uint64))[0].tolist()
            assert found == [table.find(key) for key in asked] == [rows.get(key, -1) for key in asked]
            assert [table.number[row] for row in rows.values()] == [key % 1000 for key in rows]
            assert sorted(table.rows().tolist()) == sorted(rows.values())
            assert len(table) == len(rows)
    table.clear()
    assert len(table) == 0
    assert table.find(next(iter(rows), 0)) == -1


def test_memory_is_bounded_while_keys_come_and_go() -> None:
    table = Numbers()
    for key in range(200_000):
        table.remove(table.add(key * 0x9E3779B97F4A7C15 & (1 << 64) - 1))
    assert table.memory_bytes < 4096
