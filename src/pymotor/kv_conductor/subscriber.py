"""One publisher of KV events, followed: its connection, the order of its batches, and what was missed.

What is known of a publisher counts only while it is `LIVE`. After a gap, and after every break of the connection, the
newest batch that was applied is asked for again: where the engine still has that very batch, all after it follow and
nothing was lost; where it has another one of that number, it is another engine, and where it has only later ones, it
is too far ahead: all is forgotten, and learned anew from what it can replay. Without a replay port a gap or a break
means that all is forgotten: then matches are too short for a while, and never too long.

Who answers after a break may be another engine than the one that is meant: nothing counts, and nothing is replayed,
before that one said again where and what it is. So it is when batches show another engine without a break.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic

from pymotor.kv_conductor.batch_order import Place
from pymotor.kv_conductor.begun_batch import OtherRankError
from pymotor.kv_conductor.events import EventFormatError
from pymotor.kv_conductor.instruments import Figures
from pymotor.kv_conductor.intake import Intake
from pymotor.kv_conductor.learned import Learned
from pymotor.kv_conductor.live_batches import LiveBatches
from pymotor.kv_conductor.publisher_view import PublisherView
from pymotor.kv_conductor.replay import CONNECT_SECONDS, Ending, Replay, ReplayError
from pymotor.kv_conductor.replay_room import ReplayRoom
from pymotor.kv_conductor.sources import EventSource
from pymotor.kv_conductor.standing import LEVELS, Standing
from pymotor.kv_conductor.zmtp import SUBSCRIBER, ZmtpConnection, connect_within

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
KEPT_SECONDS = 30.0
"""How long what is known of a publisher is kept, uncounted, while it cannot be reached."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_DROPPED_PAUSE = 10.0
"""After events that cannot be read."""
_NUMBER_BYTES = 8


class Subscriber:
    """Follows one publisher until `run` is cancelled."""

    def __init__(
        self,
        source: EventSource,
        view: PublisherView,
        intake: Intake,
        figures: Figures,
        room: ReplayRoom,
        ask_again: Callable[[], asyncio.Future[None]],
        changed: Callable[[], None],
        forgotten: Callable[[], None],
    ) -> None:
        """`room` bounds what all publishers replay ahead of being applied. `ask_again` has the engine asked where and
        what it is, and its future is done when that is as before; else this subscriber is cancelled. `changed` is
        called when it is live, or not any more; `forgotten` when nothing counts that was known."""
        self.source = source
        self.queued = False
        self.seconds = 0.0
        self.standing = Standing.CONNECTING
        self.why = ""
        self.learned = Learned(view, source.rank if source.rank_known else None, figures, forgotten)
        self._intake = intake
        self._figures = figures
        self._room = room
        self._ask_again = ask_again
        self._changed = changed
        self._forgotten = forgotten
        self._connection: ZmtpConnection | None = None
        self._waiting = LiveBatches()
        self._held = True
        """Live batches wait until what was missed has come."""
        self._behind = False
        self._following = False
        """Whether what a connection tells is of the present one."""
        self._lost = ""
        """Why the connection ended."""
        self._lost_at = monotonic()
        """When it was last live."""
        self._unreadable = ""
        """What of its messages cannot be read."""
        self._doubted = False
        """Whether it may be another engine that is connected to."""
        self._answered: asyncio.Future[None] | None = None
        """Done when the engine that is meant has said that it is this one."""
        self._certain = False
        """Whether it has, since nobody knows what was missed."""
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Connect again and again."""
        pause = _FIRST_PAUSE
        while True:
            began = monotonic()
            reason = await self._follow_once()
            self._doubted, self._certain = True, False
            if self._unreadable:
                pause = _DROPPED_PAUSE
            else:
                self._set(Standing.UNREACHABLE, reason)
                pause = _FIRST_PAUSE if monotonic() - began > _LONGEST_PAUSE else min(_LONGEST_PAUSE, 2 * pause)
            # What could not be read is forgotten already; where it was has to be known to begin behind it.
            if monotonic() - self._lost_at > KEPT_SECONDS and not self._unreadable:
                self.learned.forget()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _follow_once(self) -> str:
        """One connection, to its end; returns why it ended."""
        self._lost, self._unreadable, self._held, self._behind = "", "", True, False
        self._following = True
        self._wake.clear()
        source = self.source
        try:
            connection = await connect_within(CONNECT_SECONDS, source.host, source.port, SUBSCRIBER, self)
        except (OSError, asyncio.TimeoutError) as error:
            self._following = False
            return f"{source.host} port {source.port} cannot be reached ({error or 'no answer'})"
        self._connection = connection
        self._waiting.begin(connection)
        late = asyncio.get_running_loop().call_later(
            HANDSHAKE_SECONDS, connection.close, "it does not finish the handshake"
        )
        try:
            await self._wake.wait()
            late.cancel()
            connection.subscribe(source.topic.encode())
            while not self._lost:
                if self._behind and self._is_the_one():
                    await self._catch_up()
                await self._wake.wait()
                self._wake.clear()
            return self._lost
        except EventFormatError as error:
            self._cannot_use(error)
            return self._unreadable
        finally:
            late.cancel()
            if self._answered is not None:
                self._answered.cancel()
                self._answered = None
            self._following = False
            self._connection = None
            self._held = True
            self._waiting.begin(None)
            if self.learned.amid_batch:
                # Its other events will not come in their turn.
                self.learned.forget()
            connection.close("not needed any more")

    # -- what was missed

    def _is_the_one(self) -> bool:
        """Whether this is the engine that is meant, as far as anybody knows; if that is to be asked, it is, and wakes
        this up when it is known."""
        if self._answered is not None and self._answered.done():
            self._answered = None
            self._doubted, self._certain = False, True
            if self.learned.order.last is None:
                # It told nothing by which it could be known as the same: what was sent there may be gone with it.
                self._forgotten()
        if self._doubted and self._answered is None:
            self._set(Standing.CATCHING_UP, "it is asked again where and what it is")
            self._answered = self._ask_again()
            self._answered.add_done_callback(self._wake_up)
        return not self._doubted

    def _wake_up(self, answered: asyncio.Future[None]) -> None:
        # What was asked over a former connection must not be taken for the handshake of the present one.
        if answered is self._answered:
            self._wake.set()

    async def _catch_up(self) -> None:
        """Have what was missed, where that can be had; then live batches are applied. Raises `EventFormatError`."""
        self._behind = False
        self._wake.clear()
        self._set(Standing.CATCHING_UP, self.why)
        why = ""
        port = self.source.replay_port
        if port is None:
            # Without a replay nobody can tell whether it is still the same engine.
            self.learned.forget()
        else:
            try:
                await self._replay(port)
            except ReplayError as error:
                self._figures.replays_failed.add()
                self.learned.forget()
                why = f"learns from new events only: {error}"
        self._waiting.drop_until(self.learned.order.last)
        if self._lost or self._doubted:
            return
        self._held = self._certain = False
        self._set(Standing.LIVE, why)
        self._intake.ready(self)

    async def _replay(self, port: int) -> None:
        """Raises `ReplayError`, `EventFormatError`."""
        self._figures.replays.add()
        while True:
            before = self.learned.order.last
            replay = Replay(self._intake, self._room, self.learned.taking())
            ending = await replay.ask(self.source.host, port, 0 if before is None else before)
            if ending is Ending.COMPLETE and before is not None and not self.learned.verified:
                # Even its newest batch is not there: it is an engine that has not said anything yet.
                ending = Ending.DIFFERENT
            if ending is Ending.COMPLETE:
                return
            if ending is Ending.DIFFERENT:
                self._figures.restarts.add()
                self.learned.forget()
                if not self._certain:
                    self._doubted = self._behind = True
                    self._wake.set()
                    return
            elif self.learned.order.last == before:
                raise ReplayError("the replay port does not answer")

    # -- zmtp.Receiver

    def opened(self) -> None:
        """From now on its batches come."""
        self._behind = True
        self._wake.set()

    def message(self, frames: list[bytes]) -> None:
        """A batch."""
        if len(frames) != 3 or len(frames[1]) != _NUMBER_BYTES:
            self._give_up("a message is no batch of events: those have topic, number of 8 bytes and payload")
            return
        self._waiting.put(int.from_bytes(frames[1], "big"), frames[2])
        if not self._held:
            self._intake.ready(self)

    def unreadable(self, why: str) -> None:
        """The publisher is left; it is tried again later."""
        self._give_up(why)

    def closed(self, reason: str) -> None:
        """It is tried again."""
        if not self._following:
            return
        self._held = True
        self._lost = self._lost or reason
        self._wake.set()
        if not self._unreadable:
            self._set(Standing.UNREACHABLE, reason)

    # -- intake.Feed

    def apply_next(self) -> bool:
        """Apply one live batch, or a part of it, where it is its turn."""
        if self._held or not self._waiting:
            return False
        number, payload = self._waiting.first
        try:
            if not self.learned.amid_batch and not self._is_next(number, payload):
                return bool(self._waiting) and not self._held
            if not self.learned.apply(number, payload):
                return True
        except EventFormatError as error:
            self._cannot_use(error)
            return False
        self._waiting.take_off()
        return bool(self._waiting)

    def _is_next(self, number: int, payload: bytes) -> bool:
        """Whether this live batch is to be applied now; one that came already is taken off."""
        place = self.learned.order.place(number, payload)
        if place is Place.MISSING_BEFORE or place is Place.RESTARTED:
            counter = self._figures.gaps if place is Place.MISSING_BEFORE else self._figures.restarts
            counter.add()
            if place is Place.RESTARTED or self.source.replay_port is None:
                self.learned.forget()
            if place is Place.RESTARTED or self.source.replay_port is not None:
                self._held = self._behind = True
                self._doubted = self._doubted or place is Place.RESTARTED
                self._set(Standing.CATCHING_UP, f"batch {number} came: {place.value}")
                self._wake.set()
                return False
        if place is Place.REPEATED:
            self._waiting.take_off()
            return False
        return True

    def broken(self, error: Exception) -> None:
        """The publisher is left; it is tried again later."""
        logger.error("a batch of %s could not be applied", self.source.endpoint, exc_info=error)
        self._give_up(f"a batch could not be applied: {error!r}")

    # -- how it stands

    def _cannot_use(self, error: EventFormatError) -> None:
        if isinstance(error, OtherRankError):
            self._give_up(str(error))
            # Where it is looked for is not where it is: soon known, without waiting for the next try.
            self._ask_again()
        else:
            self._give_up(f"its events cannot be read: {error}")

    def _give_up(self, why: str) -> None:
        self._unreadable = why
        self._held = True
        self._figures.dropped.add()
        self.learned.forget_and_pass_over()
        self._set(Standing.DROPPED, f"{why}; tried again in {_DROPPED_PAUSE:g} s")
        if self._connection is not None:
            self._connection.close(why)

    def _set(self, standing: Standing, why: str) -> None:
        if (standing, why) == (self.standing, self.why):
            return
        if self.standing is Standing.LIVE:
            self._lost_at = monotonic()
        counted = (self.standing is Standing.LIVE) != (standing is Standing.LIVE)
        self.standing, self.why = standing, why
        level = LEVELS.get(standing, logging.DEBUG)
        where = f"{self.source.endpoint} rank {self.source.rank}"
        logger.log(level, "events of %s: %s%s", where, standing.value, f" ({why})" if why else "")
        if counted:
            self._changed()
