"""Pieces of one request's work: whatever ends it, and however often it is told to end, nothing runs on behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pymotor.coordinator.flows.together import beside, together


class Piece:
    """Work that runs until it is told to end and then takes `turns` of the loop to do so."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self.over = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(self._turns):
                await asyncio.sleep(0)
            self.over = True


class Slow(Piece):
    """Work whose end nobody can hurry: it shields it, as the end of other pieces of work does."""

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending = asyncio.ensure_future(self._end())
            while not ending.done():
                try:
                    await asyncio.shield(ending)
                except asyncio.CancelledError:  # noqa: PERF203
                    continue

    async def _end(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)
        self.over = True


async def cancelled_again_and_again(work: Callable[[], Awaitable[object]]) -> None:
    """Run it for a few turns and cancel it at each turn until it is over."""
    running = asyncio.ensure_future(work())
    for _ in range(3):
        await asyncio.sleep(0)
    while not running.done():
        running.cancel()
        await asyncio.sleep(0)
    assert running.cancelled()


@pytest.mark.parametrize("nested", [False, True])
def test_work_that_is_cancelled_again_while_it_ends_leaves_nothing(nested: bool) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pieces = [Slow(turns) for turns in (2, 7, 20)]
        helper = Slow(30)

        async def several() -> None:
            await together(loop, [piece.run() for piece in pieces])

        async def with_helper() -> None:
            await beside(loop, several(), helper.run(), lambda: False)

        await cancelled_again_and_again(with_helper if nested else several)
        assert all(piece.over for piece in pieces)
        assert helper.over == nested

    asyncio.run(scenario())


def test_the_others_end_when_one_fails() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("this one")

    async def scenario() -> None:
        other = Piece(5)
        with pytest.raises(ValueError, match="this one"):
            await together(asyncio.get_running_loop(), [other.run(), fails()])
        assert other.over

    asyncio.run(scenario())


def test_results_are_in_order() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    async def scenario() -> None:
        assert await together(asyncio.get_running_loop(), [after(3), after(0), after(1)]) == [3, 0, 1]

    asyncio.run(scenario())


@pytest.mark.parametrize("settled", [False, True])
def test_a_helper_that_fails_ends_the_work_unless_that_is_settled(settled: bool) -> None:
    async def helper() -> None:
        raise ValueError("the helper")

    async def work() -> str:
        for _ in range(5):
            await asyncio.sleep(0)
        return "done"

    async def scenario() -> None:
        asked = beside(asyncio.get_running_loop(), work(), helper(), lambda: settled)
        if settled:
            assert await asked == "done"
        else:
            with pytest.raises(ValueError, match="the helper"):
                await asked

    asyncio.run(scenario())
