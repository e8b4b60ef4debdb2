"""Whose turn it is to be asked, where only so many are asked at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class AskingTurns:
    """Places for so many askings. Who waits in front has the next one, and those behind have it when nobody does."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._front: deque[asyncio.Future[None]] = deque()
        self._behind: deque[asyncio.Future[None]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, *, behind: bool) -> AsyncIterator[None]:
        """A place, as long as the block lasts. `behind`: whoever is not waits less."""
        await self._take(self._behind if behind else self._front)
        try:
            yield
        finally:
            self._give()

    async def _take(self, line: deque[asyncio.Future[None]]) -> None:
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                # It came together with the end of waiting.
                self._give()
            raise

    def _give(self) -> None:
        for line in (self._front, self._behind):
            while line:
                place = line.popleft()
                if not place.done():
                    place.set_result(None)
                    return
        self._free += 1
