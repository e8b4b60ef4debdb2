"""One endpoint whose events are followed: its publishers are found, subscribed to, and looked for again when lost."""

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
AGAIN_SECONDS = 10.0
"""After which an engine is asked again where it publishes, when it could not be followed there."""
NOTHING_SECONDS = 60.0
"""Likewise when it publishes nothing."""

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
        """Whether the engine could not be asked for them."""
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
                    await self._learn_aliases()
                return sources
            except SourceError as error:
                if self.why != str(error):
                    logger.info("events of %s: %s", self.endpoint, error)
                self.why = str(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def _learn_aliases(self) -> bool:
        """Ask again which names are aliases; returns whether they are others than before. None is, as long as the
        engine does not say."""
        if self._find_aliases is None:
            return False
        former = self.aliases
        try:
            self.aliases = await self._find_aliases()
            self._unsure = False
        except SourceError as error:
            if not self._unsure:
                logger.info(
                    "names of %s: %s; all but the first are taken for adapters until it does", self.endpoint, error
                )
            self._unsure = True
            self.aliases = frozenset()
        return self.aliases != former

    async def _follow(self, sources: tuple[EventSource, ...]) -> tuple[EventSource, ...]:
        """Follow these until it publishes elsewhere; returns where."""
        with self._subscribe(self, sources) as subscribers:
            self.subscribers = subscribers
            tasks = [asyncio.create_task(one.run()) for one in subscribers]
            try:
                while True:
                    await asyncio.wait(tasks, timeout=AGAIN_SECONDS * random.uniform(0.8, 1.2))
                    for task in tasks:
                        if task.done():
                            task.result()
                    if all(one.standing in (Standing.LIVE, Standing.CATCHING_UP) for one in subscribers):
                        if self._unsure and await self._learn_aliases():
                            return sources
                        continue
                    with contextlib.suppress(SourceError):
                        found = await self._find()
                        # What comes back may be another engine, which has other adapters.
                        if await self._learn_aliases() or found != sources:
                            return found
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self.subscribers = ()
