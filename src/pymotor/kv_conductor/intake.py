"""Who may apply events next: all publishers take turns, and questions come in between.

Applying runs in the event loop, since it changes what questions read. It does so for a slice of time in each round of
the loop; then sockets are looked at again.

Publishers wait in three lines, which have turns alternately: for what is new; for what was missed, until that took a
share of time; then behind those who need longer, again for a share each. So it does not matter much to those who are
followed already, or have missed little, how many replays are long or never end; and nobody is left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Protocol

SLICE_SECONDS = 0.001
SHARE_SECONDS = 0.25
"""For what one publisher missed, before it is the next one's turn: 10,000 batches take 0.15 to 4 s. One after the other
they are done sooner than all side by side."""


class Feed(Protocol):
    """What waits to be applied, of one publisher."""

    queued: bool
    """Whether it has a turn; the intake's own."""
    seconds: float
    """That applying took so far; the intake counts them."""

    def apply_next(self) -> bool:
        """Apply one batch; whether there are more."""

    def broken(self, error: Exception) -> None:
        """Applying failed as nobody expected: nothing of this publisher is to be relied on."""


class Intake:
    """The turns of all feeds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._new, self._missed, self._long = _Line(0.0), _Line(SHARE_SECONDS), _Line(SHARE_SECONDS)
        self._missed.behind = self._long
        self._turns = deque((self._new, self._missed, self._long))
        self._called = False

    def ready(self, feed: Feed) -> None:
        """The feed has something new to apply."""
        if not feed.queued:
            self._new.add(feed)
            self._call()

    def ready_missed(self, feed: Feed) -> None:
        """The feed has something to apply that was missed."""
        if not feed.queued:
            (self._missed if feed.seconds < SHARE_SECONDS else self._long).add(feed)
            self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._called = False
        ends = perf_counter() + SLICE_SECONDS
        try:
            while any(self._turns):
                line = self._turns[0]
                self._turns.rotate(-1)
                if line:
                    line.turn()
                    if perf_counter() > ends:
                        break
        finally:
            if any(self._turns):
                self._call()


class _Line:
    """Feeds in the order of their turns. The first one has its turns until its share of time is over."""

    def __init__(self, share: float) -> None:
        """`share` in seconds; 0: one turn."""
        self.behind = self
        """The line that a feed goes to when its share is over."""
        self._share = share
        self._feeds: deque[tuple[Feed, float]] = deque()
        """Each with the seconds that it has taken when its share is over."""

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def add(self, feed: Feed) -> None:
        """Its turn comes after all others here."""
        feed.queued = True
        self._feeds.append((feed, feed.seconds + self._share))

    def turn(self) -> None:
        """Let the first one apply a batch."""
        feed, ends = self._feeds.popleft()
        feed.queued = False
        began = perf_counter()
        try:
            more = feed.apply_next()
        except Exception as error:  # noqa: BLE001  what one publisher sends must not stop the others
            more = False
            feed.broken(error)
        feed.seconds += perf_counter() - began
        if not more or feed.queued:
            return
        if feed.seconds < ends:
            feed.queued = True
            self._feeds.appendleft((feed, ends))
        else:
            self.behind.add(feed)
