"""One worker's line to the KV Conductor, in the frames of `pymotor.fleet.prefix_queries`.

A request waits for its answer as long as the patience allows, a few milliseconds, and goes on without. While there is
no connection, or the conductor was late several times in a row, requests are not held up at all: until the pause is
over nobody asks, then one question finds out, and the pause grows as long as that one is late too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from pymotor.control_plane.certificate_trouble import certificate_trouble, why_not
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import newest
from pymotor.coordinator.affinity.conductor_connection import ConductorConnection, give_up
from pymotor.coordinator.affinity.matches import Holders, Matches
from pymotor.fleet.prefix_queries import PrefixQuery, PrefixRouted, bounded, fits

logger = logging.getLogger(__name__)

_LATE_IN_A_ROW = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECT_SECONDS = 5.0
_MOST_UNSENT = 8 * 1024 * 1024
"""Bytes that the conductor has not taken yet, from which nothing more is asked: it does not keep up."""


class Address(NamedTuple):
    """Where the conductor listens."""

    host: str
    port: int


class Asked(NamedTuple):
    """How a question went."""

    outcome: str
    """`answered`, `late`, `closed` (nobody was asked) or `lost` (the connection went)."""
    matches: Matches | None
    """None without an answer."""


_NOBODY_ASKED = Asked("closed", None)


class ConductorClient:
    """See the module. `start` and `close` are called once each; questions may be asked at any time."""

    def __init__(
        self,
        address: Address,
        token: str,
        loop: asyncio.AbstractEventLoop,
        *,
        patience: float,
        chance: Callable[[], float] = random.random,
        tls: ClientTLS | None = None,
    ) -> None:
        """`token` is the cluster's, empty where there is none; `patience` in seconds; `tls`: None for frames in
        clear."""
        self._tls = tls
        self._address = address
        self._token = token
        self._loop = loop
        self._patience = patience
        self._chance = chance
        self._connection: ConductorConnection | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._numbers = 0
        self._late = 0
        self._pause = _FIRST_PAUSE
        self._silent_until = 0.0
        self._trouble = ""
        """What was wrong when it was dialled last, where that is more than that nobody was there."""
        self._told_too_long = False

    def start(self) -> None:
        """Connect, and again whenever the connection is lost."""
        self._keeping = self._loop.create_task(self._keep())
        self._keeping.add_done_callback(_tell)

    async def close(self) -> None:
        """Ask nobody any more."""
        connection = self._connection
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
        if connection is not None:
            connection.abort()

    @property
    def connected(self) -> bool:
        """Whether questions reach the conductor."""
        return self._present is not None

    @property
    def holders(self) -> Holders | None:
        """Whose caches the conductor follows; None while nobody can be asked."""
        connection = self._present
        return connection.holders if connection is not None else None

    @property
    def open(self) -> bool:
        """Whether a question would be asked now: somebody is there, and this is not a pause."""
        connection = self._present
        if connection is None or connection.holders is None or connection.unsent > _MOST_UNSENT:
            return False
        return self._late < _LATE_IN_A_ROW or monotonic() >= self._silent_until

    async def ask(
        self, model: str, tokens: bytes | memoryview, media: list[tuple[int, str]], *, adapter: str = "", salt: str = ""
    ) -> Asked:
        """Who holds the beginning of the prompt; see `PrefixQuery`. Salt and identifiers may have any length; what
        cannot be asked, because it is more than a question may have, is `closed`."""
        connection = self._present
        if connection is None or not self.open:
            return _NOBODY_ASKED
        if self._late >= _LATE_IN_A_ROW:
            # This question finds out; until it is answered or late nobody else asks.
            self._silent_until = monotonic() + self._patience + self._pause
        self._numbers += 1
        number = self._numbers
        waiting: asyncio.Future[Matches | None] = self._loop.create_future()
        if media:
            media = [(place, bounded(identifier)) for place, identifier in media]
        question = PrefixQuery(number, model, memoryview(tokens), media, adapter, bounded(salt))
        connection.waiting[number] = waiting
        if not fits(question) or not connection.send(question):
            connection.waiting.pop(number)
            self._tell_too_long(question)
            return _NOBODY_ASKED
        timer = self._loop.call_later(self._patience, give_up, waiting)
        try:
            matches = await waiting
        finally:
            timer.cancel()
            connection.waiting.pop(number, None)
        if matches is not None:
            if self._late >= _LATE_IN_A_ROW:
                logger.info("the KV Conductor at %s:%d answers in time again: it is asked", *self._address)
            self._late = 0
            self._pause = _FIRST_PAUSE
            return Asked("answered", matches)
        if connection.lost.done():
            return Asked("lost", None)
        self._note_late()
        return Asked("late", None)

    def routed(self, number: int, endpoint_id: str, *, in_vain: bool = False) -> None:
        """The prompt of the question of this number was sent to this endpoint; `in_vain`: as was said before."""
        connection = self._present
        if connection is not None and connection.holders is not None and connection.unsent <= _MOST_UNSENT:
            connection.send(PrefixRouted(number, endpoint_id, in_vain))

    @property
    def _present(self) -> ConductorConnection | None:
        """The connection, while it can be written to: uvloop raises on a lost one, and `_keep` hears of it later."""
        connection = self._connection
        return None if connection is None or connection.lost.done() else connection

    def _tell_too_long(self, question: PrefixQuery) -> None:
        if not self._told_too_long:
            self._told_too_long = True
            logger.warning(
                "a question is longer than the KV Conductor takes (model %.100r, %d bytes of tokens, %d media items): "
                "it is not asked, texts are compared, as for others like it that are not told of",
                question.model,
                len(question.tokens),
                len(question.media),
            )

    def _note_late(self) -> None:
        self._late += 1
        if self._late >= _LATE_IN_A_ROW:
            if self._late == _LATE_IN_A_ROW:
                logger.warning(
                    "the KV Conductor at %s:%d is late: texts are compared until it keeps up again", *self._address
                )
            self._silent_until = monotonic() + self._pause
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    async def _keep(self) -> None:
        """Have a connection, for ever."""
        pause = _FIRST_PAUSE
        told = False
        while True:
            connection = await self._connect()
            if connection is not None:
                logger.info("asking the KV Conductor at %s:%d where prompts are", *self._address)
                self._connection = connection
                self._late = 0
                try:
                    await connection.lost
                finally:
                    self._connection = None
                if connection.greeted:
                    pause = _FIRST_PAUSE
                logger.warning("the connection to the KV Conductor is lost: texts are compared (%s)", connection.why)
                told = True
            elif not told:
                why = f" ({self._trouble})" if self._trouble else ""
                logger.warning("no KV Conductor at %s:%d%s: texts are compared until it is there", *self._address, why)
                told = True
            await asyncio.sleep(pause * (0.5 + self._chance() / 2))
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def _connect(self) -> ConductorConnection | None:
        try:
            return await self._dial()
        except OSError as error:
            self._trouble = certificate_trouble(error)
        except Exception as error:  # noqa: BLE001  such as a name that cannot be looked for: it may be another later
            self._trouble = why_not(error)
        return None

    async def _dial(self) -> ConductorConnection | None:
        context, name = (newest(self._tls), self._tls.peer_name or None) if self._tls is not None else (None, None)
        connecting = self._loop.create_task(
            self._loop.create_connection(
                lambda: ConductorConnection(self._loop, self._token), *self._address, ssl=context, server_hostname=name
            )
        )
        try:
            await asyncio.wait((connecting,), timeout=_CONNECT_SECONDS)
        finally:
            if not connecting.done():
                connecting.cancel()
                connecting.add_done_callback(_abandon)
        if not connecting.done() or connecting.cancelled():
            return None
        return connecting.result()[1]


def _tell(keeping: asyncio.Task[None]) -> None:
    if not keeping.cancelled() and keeping.exception() is not None:
        logger.error("the KV Conductor is not asked any more: texts are compared", exc_info=keeping.exception())


def _abandon(connecting: asyncio.Task[tuple[asyncio.Transport, ConductorConnection]]) -> None:
    """Nobody waits for the connection any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()
