"""Several pieces of one request's work at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
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
