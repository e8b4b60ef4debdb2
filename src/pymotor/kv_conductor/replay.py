"""Asking an engine for batches of events that were missed.

A ROUTER socket answers `["", start]` with every batch it still has from that number on, then with the number -1. It
may silently leave out what its queue has no room for, the end as well: so each asking can stop early and is repeated
from where it came to. The batches wait here until they are applied, which closes the way back to the engine when it
sends faster than that.

Any number of engines are asked at a time: one that answers slowly, or never, costs a connection and keeps nobody
waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from time import monotonic

from pymotor.kv_conductor.events import EventFormatError
from pymotor.kv_conductor.intake import Intake
from pymotor.kv_conductor.replay_room import ReplayRoom, WaitingBatches
from pymotor.kv_conductor.zmtp import DEALER, ZmtpConnection, connect_within

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
IDLE_SECONDS = 3.0
"""An engine looks for such questions ten times a second, and then sends all in one go."""
WHOLE_SECONDS = 60.0
"""For one asking, however much comes: what the engine takes to send, and applying it; without the time in which
batches wait here because others have their turn."""
_NUMBER_BYTES = 8
_END = b"\xff" * _NUMBER_BYTES


class Taken(Enum):
    """What became of a replayed batch."""

    ON = "on"
    PART = "part"
    """Some of its events were applied; it is to be handed over again."""
    GAP = "gap"
    """Batches before it are missing; it was not applied."""
    DIFFERENT = "different"
    """The engine is another one than before; nothing was applied."""


class Ending(Enum):
    """How one asking ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    """Not all came; what did was applied."""
    DIFFERENT = "different"


class ReplayError(Exception):
    """The engine does not replay; the message says why."""


class Replay:
    """One asking."""

    def __init__(self, intake: Intake, room: ReplayRoom, take: Callable[[int, bytes], Taken]) -> None:
        """`take` gets number and payload of each batch, in turns with everybody else's; it may raise
        `EventFormatError`. `room` bounds what waits for that."""
        self.queued = False
        self.seconds = 0.0
        self._intake = intake
        self._take = take
        self._start = 0
        self._connection: ZmtpConnection | None = None
        self._waiting = WaitingBatches(room)
        self._paused = False
        self._opened = False
        self._idle_since = monotonic()
        """While nothing waits: since when it is the engine's turn."""
        self._engine_seconds = 0.0
        """How long it was so before."""
        self._end: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def ask(self, host: str, port: int, start: int) -> Ending:
        """Have everything from number `start` on. Raises `ReplayError`, `EventFormatError`."""
        self._start = start
        try:
            try:
                self._connection = await connect_within(CONNECT_SECONDS, host, port, DEALER, self)
            except (OSError, asyncio.TimeoutError) as error:
                raise ReplayError(f"the replay port {port} cannot be reached ({error or 'no answer'})") from error
            if self._opened:
                self._ask()
            return await self._wait()
        finally:
            # From now on nothing is taken of a connection, be it one that comes too late.
            self._end.cancel()
            self._waiting.clear()
            if self._connection is not None:
                self._connection.close("the replay is over")

    async def _wait(self) -> Ending:
        self._idle_since = monotonic()
        while True:
            idle = self._idle()
            left = min(IDLE_SECONDS - idle, WHOLE_SECONDS - self._engine_seconds - idle - self.seconds)
            done, _ = await asyncio.wait({self._end}, timeout=max(0.0, left))
            if done:
                return self._end.result()
            idle = self._idle()
            if self._engine_seconds + idle + self.seconds >= WHOLE_SECONDS:
                raise ReplayError(f"the replay did not end within {WHOLE_SECONDS:g} s")
            if idle >= IDLE_SECONDS:
                return Ending.STOPPED

    def _idle(self) -> float:
        """Seconds since the engine's last batch was applied; 0 where one waits."""
        return 0.0 if self._waiting else monotonic() - self._idle_since

    def _ask(self) -> None:
        assert self._connection is not None
        self._connection.send([b"", self._start.to_bytes(_NUMBER_BYTES, "big")])

    # -- zmtp.Receiver

    def opened(self) -> None:
        """Ask, as soon as it is known over which connection."""
        self._opened = True
        if self._connection is not None:
            self._ask()

    def message(self, frames: list[bytes]) -> None:
        """A batch, or the end; versions of vLLM before 0.11 send no topic."""
        if self._end.done():
            return
        if len(frames) not in (3, 4) or frames[0] or len(frames[-2]) != _NUMBER_BYTES:
            self._fail("the replay port answers with something that is no batch")
            return
        number = None if frames[-2] == _END else int.from_bytes(frames[-2], "big")
        self._engine_seconds += self._idle()
        self._waiting.put(number, frames[-1])
        if self._waiting.too_many and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.pause()
        self._intake.ready_missed(self)

    def unreadable(self, why: str) -> None:
        """It is not asked any more."""
        self._fail(f"the replay port cannot be understood: {why}")

    def closed(self, reason: str) -> None:
        """What came before is still applied; the rest is asked for again."""
        if not self._opened:
            self._fail(f"the replay port does not answer: {reason}")
        elif not self._waiting:
            self._finish(Ending.STOPPED)

    # -- intake.Feed

    def apply_next(self) -> bool:
        """Hand one batch over."""
        if not self._waiting or self._end.done():
            return False
        number, payload = self._waiting.first
        if number is None:
            self._finish(Ending.COMPLETE)
            return False
        try:
            taken = self._take(number, payload)
        except EventFormatError as error:
            if not self._end.done():
                self._end.set_exception(error)
            return False
        if taken is Taken.PART:
            return True
        self._waiting.take_off()
        if not self._waiting:
            self._idle_since = monotonic()
        if self._paused and self._waiting.few and self._connection is not None:
            self._paused = False
            self._connection.resume()
        if taken is Taken.GAP:
            self._finish(Ending.STOPPED)
        elif taken is Taken.DIFFERENT:
            self._finish(Ending.DIFFERENT)
        return bool(self._waiting)

    def broken(self, error: Exception) -> None:
        """The publisher is left."""
        logger.error("a replayed batch could not be applied", exc_info=error)
        if not self._end.done():
            self._end.set_exception(EventFormatError(f"it could not be applied: {error!r}"))

    def _finish(self, ending: Ending) -> None:
        if not self._end.done():
            self._end.set_result(ending)

    def _fail(self, why: str) -> None:
        if not self._end.done():
            self._end.set_exception(ReplayError(why))
