"""Several pieces of one request's work at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel those that still run and wait for all, so that their legs are closed and their reservations released
    before this returns, even when the caller is cancelled meanwhile; it learns of that afterwards."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:  # noqa: PERF203 - happens once, if at all
            cancelled = error
            pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled


async def together(loop: asyncio.AbstractEventLoop, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results in order. When one raises, or the request ends, the others are ended."""
    tasks = [loop.create_task(piece) for piece in work]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
        return [task.result() for task in tasks]
    finally:
        try:
            await end(tasks)
        finally:
            _hear_out(tasks)


async def beside(
    loop: asyncio.AbstractEventLoop,
    work: Awaitable[Result],
    helper: Awaitable[None],
    settled: Callable[[], bool],
) -> Result:
    """The result of `work`, while `helper` runs beside it. What `helper` raises ends `work` and is raised, unless
    work was `settled` by then. When this returns both are over."""
    working, helping = asyncio.ensure_future(work, loop=loop), asyncio.ensure_future(helper, loop=loop)
    try:
        await asyncio.wait((working, helping), return_when=asyncio.FIRST_COMPLETED)
        failed = helping.done() and not helping.cancelled() and helping.exception() is not None
        if failed and not settled() and not (working.done() and working.exception() is None):
            helping.result()
        return await working
    finally:
        try:
            await end((working, helping))
        finally:
            _hear_out((working, helping))


def _hear_out(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """What each raised was wanted or is of no interest any more: asyncio shall not warn of it."""
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()
