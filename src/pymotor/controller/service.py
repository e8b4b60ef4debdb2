"""The running Controller: one fleet state for each term as leader, who waits for news of it, and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from pymotor.controller.events import History
from pymotor.controller.fleet_state import FleetState, SupersededError
from pymotor.controller.leadership import Leadership, NotLeadingError
from pymotor.controller.operations import Operations
from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import FleetWatch, NodeReport, ReportReply

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
_STALL_SECONDS = 2.0
_LONGEST_WATCH = 5.0
_LONGEST_WATCH_WHILE_DRAINING = 1.0
"""What a Coordinator has in flight is in its next watch: then that has to come soon."""


class SteadyClock:
    """Seconds in which this process has run: time for which it was stopped is nobody's silence.

    It has to be asked more often than every `_STALL_SECONDS`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._behind = 0.0

    def __call__(self) -> float:
        """Now."""
        now = self._clock()
        if now - self._last > _STALL_SECONDS:
            self._behind += now - self._last
        self._last = now
        return now - self._behind


class Term:
    """One time as leader."""

    def __init__(self, state: FleetState) -> None:
        self.state = state
        self.operations = Operations(state)
        self.nodes: dict[str, asyncio.Future[None]] = {}
        """Waiting reports, by node."""
        self.watches: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Wake those for whom there is something new."""
        changes = self.state.take_changes()
        for node in changes.orders:
            _wake(self.nodes.get(node))
        if changes.snapshot:
            for future in self.watches:
                _wake(future)

    def tell_everybody(self) -> None:
        """Wake all: the term is over."""
        for future in (*self.nodes.values(), *self.watches):
            _wake(future)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class ControllerService:
    """What the HTTP servers ask. Every method raises `NotLeadingError` when this Controller may not answer, and
    `LeaseError` when what it would say cannot be kept."""

    def __init__(
        self, leadership: Leadership, settings: ControllerSettings, clock: Callable[[], float] | None = None
    ) -> None:
        self._leadership = leadership
        self._settings = settings
        self._clock = clock or SteadyClock()
        self._term: Term | None = None
        self.history = History()
        self._set_wall_clock()

    @property
    def leadership(self) -> Leadership:
        """Who leads."""
        return self._leadership

    @property
    def ready(self) -> bool:
        """Whether it leads and knows who is there."""
        return self._leadership.leads and self._term is not None and not self._term.state.listening

    @property
    def leads(self) -> bool:
        """Whether it answers as leader."""
        return self._leadership.leads and self._term is not None

    def use(self, settings: ControllerSettings) -> None:
        """Judge by these limits from now on. How long a new leader listens counts from its next term."""
        self._settings = settings
        if self._term is not None:
            self._term.state.book.settings = settings

    def now(self) -> float:
        """The time of the present state."""
        return self._clock()

    def term(self) -> Term:
        """The present term."""
        self._leadership.check()
        if self._term is None:
            raise NotLeadingError(self._leadership.other)
        return self._term

    async def lead(self, epoch: int) -> None:
        """One term, from an epoch that was just taken to the loss of the lease."""
        numbers = dict(self._leadership.numbers)
        state = FleetState(
            epoch,
            self._settings,
            self.now(),
            numbers=numbers,
            history=self.history,
            listens=epoch > 1 or bool(numbers),
        )
        term = self._term = Term(state)
        ticking = asyncio.create_task(self._tick(term))
        keeping = asyncio.create_task(self._leadership.keep())
        try:
            await asyncio.wait({ticking, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                # The rules failed. A Controller that starts anew learns everything again; this one knows no more.
                ticking.result()
        finally:
            self.end_term()
            ticking.cancel()
            keeping.cancel()
            await asyncio.wait({ticking, keeping})
        logger.warning("no longer leads")
        self.history.add(self.now(), "leads_no_more", f"the lease of epoch {epoch} is lost")

    def end_term(self) -> None:
        """Answer nobody any more as leader; those who wait are told at once."""
        term, self._term = self._term, None
        if term is not None:
            term.tell_everybody()

    async def report(self, message: NodeReport, broken: Callable[[], Awaitable[None]]) -> ReportReply:
        """Answer a node's report. `broken` returns when the connection is gone.

        Raises `ReportRefused` too.
        """
        term = self.term()
        with self._superseded():
            term.state.report(message, self.now())
        term.tell()
        if message.wait_seconds > 0 and not term.state.has_news_for(message):
            await self._wait_for_order(term, message, broken)
        await self._leadership.keep_numbers(term.state.numbers)
        self._still(term)
        return term.state.reply(message.node)

    async def watch(self, message: FleetWatch, broken: Callable[[], Awaitable[None]]) -> bytes | None:
        """Answer a Coordinator: a snapshot as JSON, or None where there is nothing newer."""
        term = self.term()
        with self._superseded():
            newest = term.state.watch(message, self.now())
        term.tell()
        newest = newest or term.state.newer_than(message)
        if newest is None and message.wait_seconds > 0:
            future = asyncio.get_running_loop().create_future()
            term.watches.add(future)
            longest = _LONGEST_WATCH_WHILE_DRAINING if term.state.drains else _LONGEST_WATCH
            try:
                here = await _either(future, broken, min(message.wait_seconds, longest))
            finally:
                term.watches.discard(future)
            if here:
                term.state.still_watching(message.coordinator, self.now())
            newest = term.state.newer_than(message)
        self._still(term)
        return newest

    async def done(self, term: Term) -> None:
        """After an operation: tell everybody, and return when it may be answered."""
        term.tell()
        await self._leadership.keep_numbers(term.state.numbers)
        self._still(term)

    async def _wait_for_order(self, term: Term, message: NodeReport, broken: Callable[[], Awaitable[None]]) -> None:
        _wake(term.nodes.get(message.node))
        future = term.nodes[message.node] = asyncio.get_running_loop().create_future()
        # A node is heard of as often as it reports, so no report waits for longer than a heartbeat.
        here = await _either(future, broken, min(message.wait_seconds, self._settings.heartbeat))
        if term.nodes.get(message.node) is future:
            del term.nodes[message.node]
            if not here:
                term.state.silent(message.node, message.incarnation, self.now())

    def _still(self, term: Term) -> None:
        self._leadership.check()
        if self._term is not term:
            raise NotLeadingError(self._leadership.other)

    @contextlib.contextmanager
    def _superseded(self) -> Iterator[None]:
        try:
            yield
        except SupersededError as error:
            logger.warning("another leader is newer: %s", error)
            self._leadership.resign(error.epoch)
            self.end_term()
            raise NotLeadingError("") from error

    async def _tick(self, term: Term) -> None:
        while True:
            self._set_wall_clock()
            term.state.tick(self.now())
            term.tell()
            await asyncio.sleep(TICK_SECONDS)

    def _set_wall_clock(self) -> None:
        self.history.wall_ahead = time.time() - self._clock()


async def _either(future: asyncio.Future[None], broken: Callable[[], Awaitable[None]], seconds: float) -> bool:
    """Wait for news; whether the connection is still there."""
    leaving = asyncio.ensure_future(broken())
    try:
        await asyncio.wait({future, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return not leaving.done()
    finally:
        leaving.cancel()
