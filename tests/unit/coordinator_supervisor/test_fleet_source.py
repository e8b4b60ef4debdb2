"""The fleet's file: late, broken, gone and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path

import pytest
from sample_fleets import DECODE, PREFILL, UNION, fleet

from pymotor.coordinator.fleet_source import FileFleetSource
from pymotor.fleet import FleetSnapshot, encode_snapshot

DEADLINE = 60.0


async def next_of(snapshots: AsyncGenerator[FleetSnapshot, None]) -> FleetSnapshot:
    return await asyncio.wait_for(anext(snapshots), DEADLINE)


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async def seen() -> None:
        while text not in caplog.text:  # noqa: ASYNC110 - a log handler has no event to wait for
            await asyncio.sleep(0.001)

    await asyncio.wait_for(seen(), DEADLINE)


async def test_each_change_is_told_and_each_trouble_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fleet.json"
    snapshots = FileFleetSource(path, interval=0.001).snapshots()
    with caplog.at_level(logging.WARNING):
        upcoming = asyncio.create_task(next_of(snapshots))
        await logged(caplog, "does not exist")
        path.write_bytes(encode_snapshot(fleet(UNION)))
        assert await upcoming == fleet(UNION)

        upcoming = asyncio.create_task(next_of(snapshots))
        path.write_text('{"version": 2, "instances": [{"name"')
        await logged(caplog, "holds no snapshot")
        path.unlink()
        (tmp_path / "new").write_bytes(encode_snapshot(fleet(PREFILL, DECODE, version=2)))
        (tmp_path / "new").rename(path)
        assert await upcoming == fleet(PREFILL, DECODE, version=2)

        upcoming = asyncio.create_task(next_of(snapshots))
        caplog.clear()
        path.unlink()
        await logged(caplog, "does not exist")
        path.mkdir()
        await logged(caplog, "cannot be read")
        path.rmdir()
        path.write_bytes(encode_snapshot(fleet(version=3)))
        assert await upcoming == fleet(version=3)
    messages = [record.getMessage() for record in caplog.records]
    assert all(former != latter for former, latter in pairwise(messages)), "one record for a state that stays"
    await snapshots.aclose()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", '{"version": 7}', '{"version": "new"}', '{"instances": [{"name": "a"}]}', "\x00\xff"],
)
async def test_nonsense_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(content, encoding="latin-1")
    snapshots = FileFleetSource(path, interval=0.001).snapshots()
    upcoming = asyncio.create_task(next_of(snapshots))
    await logged(caplog, "holds no snapshot")
    path.write_bytes(encode_snapshot(fleet(UNION)))
    assert await upcoming == fleet(UNION)
    assert len(caplog.records) == 1, "one trouble, one record"
    await snapshots.aclose()
