"""Several pieces of one request's work at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")


async def together(loop: asyncio.AbstractEventLoop, work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results in order. When one raises, or the request ends, the others are cancelled and waited for, so that
    their legs are closed and their reservations released before this returns."""
    tasks = [loop.create_task(piece) for piece in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)


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
        pending = [task for task in (working, helping) if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        for task in (working, helping):
            if not task.cancelled():
                task.exception()
