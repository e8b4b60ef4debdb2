"""Those who wait are woken by what happens, not by time; and nobody is answered without the lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from model_node import ModelNode
from pymotor.controller.file_lease import FileLease
from pymotor.controller.leadership import Leadership, NotLeadingError
from pymotor.controller.service import ControllerService, SteadyClock
from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import FleetWatch, decode_snapshot


async def never() -> None:
    await asyncio.Event().wait()


class Led:
    """A service in its first term, with a clock that the test moves."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.leadership = Leadership(FileLease(directory), "me", "http://me", 10.0, lambda: self.now)
        self.service = ControllerService(self.leadership, ControllerSettings(), lambda: self.now)

    async def begin(self) -> None:
        assert await self.leadership.try_to_lead()
        self.leading = asyncio.create_task(self.service.lead(self.leadership.epoch))
        await asyncio.sleep(0)

    async def end(self) -> None:
        self.leading.cancel()
        await asyncio.wait({self.leading})


@pytest_asyncio.fixture
async def led(tmp_path: Path) -> AsyncIterator[Led]:
    running = Led(tmp_path)
    await running.begin()
    yield running
    await running.end()


async def serving(led: Led) -> ModelNode:
    node = ModelNode("a")
    for _ in range(3):
        node.take(await led.service.report(node.report(), never))
        node.work()
    return node


async def turns() -> None:
    """Let everything run that waits for nothing."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_order_wakes_the_report_that_waits(led: Led) -> None:
    node = await serving(led)
    waiting = asyncio.create_task(led.service.report(node.report(wait_seconds=60), never))
    await turns()
    assert not waiting.done()
    term = led.service.term()
    term.operations.cordon("union-0", led.now)
    await led.service.done(term)
    await turns()
    assert waiting.done()
    assert waiting.result().order.cordoned


async def test_a_second_waiting_report_lets_the_first_go(led: Led) -> None:
    node = await serving(led)
    first = asyncio.create_task(led.service.report(node.report(wait_seconds=60), never))
    await turns()
    second = asyncio.create_task(led.service.report(node.report(wait_seconds=60), never))
    await turns()
    assert (first.done(), second.done()) == (True, False)
    second.cancel()
    await asyncio.wait({second})


async def test_a_change_wakes_the_watch(led: Led) -> None:
    node = await serving(led)
    newest = decode_snapshot(await led.service.watch(FleetWatch(coordinator="c"), never) or b"")
    watch = FleetWatch(coordinator="c", epoch=newest.epoch, version=newest.version, wait_seconds=60)
    waiting = asyncio.create_task(led.service.watch(watch, never))
    await turns()
    assert not waiting.done()
    node.crash()
    await led.service.report(node.report(), never)
    await turns()
    assert decode_snapshot(waiting.result() or b"").version > newest.version


async def test_all_who_wait_are_refused_when_the_lease_is_lost(led: Led) -> None:
    node = await serving(led)
    waiting = asyncio.create_task(led.service.report(node.report(wait_seconds=60), never))
    await turns()
    led.now += 10.0
    led.service.end_term()
    await turns()
    with pytest.raises(NotLeadingError):
        await waiting
    with pytest.raises(NotLeadingError):
        await led.service.report(node.report(), never)


async def test_a_greater_epoch_ends_the_term_at_once(led: Led) -> None:
    with pytest.raises(NotLeadingError):
        await led.service.watch(FleetWatch(coordinator="c", epoch=9), never)
    assert not led.leadership.leads
    with pytest.raises(NotLeadingError):
        led.service.term()


async def test_a_report_that_follows_a_greater_epoch_ends_the_term_at_once(led: Led) -> None:
    node = await serving(led)
    assert node.held is not None
    node.held = replace(node.held, epoch=9)
    with pytest.raises(NotLeadingError):
        await led.service.report(node.report(), never)
    assert not led.leadership.leads


async def test_a_watch_that_waits_is_refused_when_another_knows_a_greater_epoch(led: Led) -> None:
    await serving(led)
    newest = decode_snapshot(await led.service.watch(FleetWatch(coordinator="c"), never) or b"")
    watch = FleetWatch(coordinator="c", epoch=newest.epoch, version=newest.version, wait_seconds=60)
    waiting = asyncio.create_task(led.service.watch(watch, never))
    await turns()
    with pytest.raises(NotLeadingError):
        await led.service.watch(FleetWatch(coordinator="d", epoch=9), never)
    await turns()
    assert waiting.done()
    with pytest.raises(NotLeadingError):
        await waiting


async def test_numbers_are_kept_before_the_order_is_sent(led: Led, tmp_path: Path) -> None:
    node = ModelNode("a", preferred_number=5)
    await led.service.report(node.report(), never)
    record, _ = await FileLease(tmp_path).read()
    assert record is not None
    assert record.numbers == {"union": 5}


def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    times = iter([0.0, 0.5, 1.0, 61.0, 61.5])
    clock = SteadyClock(lambda: next(times))
    assert [clock() for _ in range(4)] == [0.5, 1.0, 1.0, 1.5]
