"""Who may apply events next: all publishers take turns, and questions come in between.

Applying runs in the event loop, since it changes what questions read. It does so for a slice of time in each round of
the loop; then sockets are looked at again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Protocol

SLICE_SECONDS = 0.001


class Feed(Protocol):
    """What waits to be applied, of one publisher."""

    queued: bool
    """Whether it has a turn; the intake's own."""

    def apply_next(self) -> bool:
        """Apply one batch; whether there are more."""

    def broken(self, error: Exception) -> None:
        """Applying failed as nobody expected: nothing of this publisher is to be relied on."""


class Intake:
    """The turns of all feeds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[Feed] = deque()
        self._called = False

    def ready(self, feed: Feed) -> None:
        """The feed has something to apply."""
        if not feed.queued:
            feed.queued = True
            self._ready.append(feed)
            self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._called = False
        ends = perf_counter() + SLICE_SECONDS
        try:
            while self._ready:
                feed = self._ready.popleft()
                feed.queued = False
                try:
                    more = feed.apply_next()
                except Exception as error:  # noqa: BLE001  what one publisher sends must not stop the others
                    more = False
                    feed.broken(error)
                if more and not feed.queued:
                    feed.queued = True
                    self._ready.append(feed)
                if perf_counter() > ends:
                    break
        finally:
            if self._ready:
                self._call()
