"""One endpoint whose events are followed: its publishers are found, subscribed to, and looked for again when lost.

Engines take other ports, ranks and adapters when they start again, and one may get the ports that another had. So what
comes after a break counts only once the engine said, asked since then, that it still publishes there and by the same
names; where it says something else it is followed anew. It is asked now and then while all is well, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from pymotor.kv_conductor.holders import TooManyHoldersError
from pymotor.kv_conductor.sources import EventSource, SourceError
from pymotor.kv_conductor.standing import Standing
from pymotor.kv_conductor.subscriber import Subscriber

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_LONGEST_DOUBT = 2.0
"""Between two questions to an engine that is connected to already: its servers begin to answer later than its
publishers."""
AGAIN_SECONDS = 10.0
"""After which an engine is asked again where it publishes, when it could not be followed there."""
NOTHING_SECONDS = 60.0
"""Likewise when it publishes nothing."""
LIVE_SECONDS = 60.0
"""Likewise while all is well: ports can change hands without a break that is seen here."""

Subscribe = Callable[
    ["FollowedEndpoint", Sequence[EventSource]], "contextlib.AbstractContextManager[tuple[Subscriber, ...]]"
]
"""Makes subscribers, one for each rank, with views that are theirs within the block."""


class FollowedEndpoint:
    """Follows until `cancel`."""

    def __init__(
        self,
        endpoint: str,
        instance: str,
        models: tuple[str, ...],
        find: Callable[[], Awaitable[tuple[EventSource, ...]]],
        subscribe: Subscribe,
        place: asyncio.Lock,
        find_aliases: Callable[[], Awaitable[frozenset[str]]] | None = None,
    ) -> None:
        """`endpoint` and `instance` are names of the fleet. `find` says where it publishes, nothing where it does not,
        and raises `SourceError` when it should be asked again. `place` is held by whoever has this endpoint's slots.
        `find_aliases` says which of the models are the first by another name, and raises likewise. To be made within
        the event loop."""
        self.endpoint = endpoint
        self.instance = instance
        self.models = models
        self.why = "its publishers are looked for"
        """Why there are no subscribers, when there are none."""
        self.subscribers: tuple[Subscriber, ...] = ()
        self.aliases: frozenset[str] = frozenset()
        self._unsure = False
        """Whether the engine did not say them."""
        self._doubting: list[asyncio.Future[None]] = []
        """Who waits for the next answer."""
        self._doubt = asyncio.Event()
        self._find = find
        self._find_aliases = find_aliases
        self._subscribe = subscribe
        self._place = place
        self._task = asyncio.create_task(self._run())

    @property
    def live(self) -> bool:
        """Whether all its publishers are."""
        return bool(self.subscribers) and all(one.standing is Standing.LIVE for one in self.subscribers)

    def cancel(self, ended: Callable[[], None]) -> None:
        """End everything; `ended` is called when its slots are free."""
        self._task.add_done_callback(lambda _: ended())
        self._task.cancel()

    async def wait_ended(self) -> None:
        """Return when its slots are free."""
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        async with self._place:
            while True:
                began = monotonic()
                try:
                    await self._follow_wherever()
                except Exception as error:
                    # A mistake here must not make an endpoint invisible for ever.
                    self.why = f"it is tried again in a moment, because of a mistake of the conductor: {error!r}"
                    logger.error("events of %s: %s", self.endpoint, self.why, exc_info=error)
                pause = _FIRST_PAUSE if monotonic() - began > _LONGEST_PAUSE else min(_LONGEST_PAUSE, 2 * pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _follow_wherever(self) -> None:
        """Find out where it publishes and follow it there, for ever."""
        sources = await self._found()
        while True:
            try:
                if sources:
                    sources = await self._follow(sources)
                    continue
                self.why = "it publishes no events"
            except TooManyHoldersError as error:
                self.why = str(error)
                logger.warning("events of %s: %s", self.endpoint, error)
            await asyncio.sleep(NOTHING_SECONDS * random.uniform(0.8, 1.2))
            sources = await self._found()

    async def _found(self) -> tuple[EventSource, ...]:
        pause = _FIRST_PAUSE
        while True:
            try:
                sources = await self._find()
                if sources:
                    names = await self._names()
                    self._unsure = names is None
                    self.aliases = names or frozenset()
                return sources
            except SourceError as error:
                self._tell(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def _names(self) -> frozenset[str] | None:
        """Which of the models are aliases; None: the engine does not say, so none is to be taken for one."""
        if self._find_aliases is None:
            return frozenset()
        try:
            return await self._find_aliases()
        except SourceError as error:
            if not self._unsure:
                logger.info("names of %s: %s; nobody knows until it does which are adapters", self.endpoint, error)
            return None

    def _tell(self, error: SourceError) -> None:
        if self.why != str(error):
            logger.info("events of %s: %s", self.endpoint, error)
        self.why = str(error)

    async def _follow(self, sources: tuple[EventSource, ...]) -> tuple[EventSource, ...]:
        """Follow these until it publishes elsewhere, or by other names; returns where."""
        with self._subscribe(self, sources) as subscribers:
            self.subscribers = subscribers
            self.why = ""
            elsewhere = asyncio.create_task(self._elsewhere(sources))
            tasks = {elsewhere, *(asyncio.create_task(one.run()) for one in subscribers)}
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {elsewhere}:
                    task.result()
                return elsewhere.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self.subscribers = ()
                self._doubting.clear()

    # -- asking again

    def ask_again(self) -> asyncio.Future[None]:
        """Have the engine asked again, soon. Done when it has said the same as before; if it says something else, the
        subscribers end."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._doubting.append(answered)
        self._doubt.set()
        return answered

    async def _elsewhere(self, sources: tuple[EventSource, ...]) -> tuple[EventSource, ...]:
        """Ask again as often as need be, until it says something else; returns where it publishes then."""
        pause, asked = _FIRST_PAUSE, monotonic()
        while True:
            await self._time_to_ask(asked)
            # An answer is of use to those only who doubted before the question.
            self._doubt.clear()
            doubting, self._doubting = self._doubting, []
            asked = monotonic()
            try:
                found = await self._find()
            except SourceError as error:
                self._doubting += [one for one in doubting if not one.done()]
                if self._doubting:
                    self._tell(error)
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(_LONGEST_DOUBT, 2 * pause)
                    self._doubt.set()
                continue
            names = await self._names()
            if names is not None or doubting:
                self._unsure = names is None
                former, self.aliases = self.aliases, names or frozenset()
                if self.aliases != former:
                    return found
            if found != sources:
                return found
            pause, self.why = _FIRST_PAUSE, ""
            for one in doubting:
                if not one.done():
                    one.set_result(None)

    async def _time_to_ask(self, asked: float) -> None:
        """Return when somebody doubts, and else now and then; `asked`: when it was asked last (`monotonic`)."""
        live = LIVE_SECONDS * random.uniform(0.8, 1.2)
        while True:
            doubted = asyncio.create_task(self._doubt.wait())
            try:
                done, _ = await asyncio.wait({doubted}, timeout=AGAIN_SECONDS * random.uniform(0.8, 1.2))
            finally:
                doubted.cancel()
            if done:
                return
            well = all(one.standing in (Standing.LIVE, Standing.CATCHING_UP) for one in self.subscribers)
            if not well or self._unsure or monotonic() - asked > live:
                return
