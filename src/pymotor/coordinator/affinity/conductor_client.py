"""One worker's line to the KV Conductor, in the frames of `pymotor.fleet.prefix_queries`.

A request waits for its answer as long as the patience allows, a few milliseconds, and goes on without. While there is
no connection, or the conductor was late several times in a row, requests are not held up at all: until the pause is
over nobody asks, then one question finds out, and the pause grows as long as that one is late too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from array import array
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

import msgspec
import numpy as np

from pymotor.control_plane.certificate_trouble import certificate_trouble, why_not
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import newest
from pymotor.coordinator.affinity.matches import FEW, Holders, Matches
from pymotor.fleet.prefix_frames import FrameReader
from pymotor.fleet.prefix_queries import (
    LENGTH_BYTES,
    LONGEST_FRAME,
    PREFACE,
    Followed,
    FromConductor,
    FromCoordinator,
    Hello,
    PrefixMatches,
    PrefixQuery,
    PrefixRouted,
    bounded,
    fits,
)

logger = logging.getLogger(__name__)

_LATE_IN_A_ROW = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECT_SECONDS = 5.0
_MOST_UNSENT = 8 * 1024 * 1024
"""Bytes that the conductor has not taken yet, from which nothing more is asked: it does not keep up."""

_SOONER_COPIED = 1 << 15
"""Bytes below which a copy is cheaper than a second write."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FromConductor)


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
        self._connection: _Connection | None = None
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
        timer = self._loop.call_later(self._patience, _give_up, waiting)
        try:
            matches = await waiting
        finally:
            timer.cancel()
            connection.waiting.pop(number, None)
        if matches is not None:
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
    def _present(self) -> _Connection | None:
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

    async def _connect(self) -> _Connection | None:
        try:
            return await self._dial()
        except OSError as error:
            self._trouble = certificate_trouble(error)
        except Exception as error:  # noqa: BLE001  such as a name that cannot be looked for: it may be another later
            self._trouble = why_not(error)
        return None

    async def _dial(self) -> _Connection | None:
        context, name = (newest(self._tls), self._tls.peer_name or None) if self._tls is not None else (None, None)
        connecting = self._loop.create_task(
            self._loop.create_connection(
                lambda: _Connection(self._loop, self._token), *self._address, ssl=context, server_hostname=name
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


class _Connection(asyncio.Protocol):
    """One connection: frames out, frames in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, token: str) -> None:
        self._token = token
        self._frames = FrameReader()
        self._transport: asyncio.Transport
        self.lost: asyncio.Future[None] = loop.create_future()
        self.why = "it was closed"
        """Why it is over."""
        self.greeted = False
        """Whether the conductor has said anything."""
        self.holders: Holders | None = None
        """None until the conductor has said whom it follows."""
        self.waiting: dict[int, asyncio.Future[Matches | None]] = {}
        """By the number of the question."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        connected = transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.write(PREFACE)
        self.send(Hello(self._token))

    @property
    def unsent(self) -> int:
        """Bytes that wait to be taken."""
        return self._transport.get_write_buffer_size()

    def send(self, message: FromCoordinator) -> bool:
        """Say it. False: it is not said, because the conductor would hang up."""
        body = _encoder.encode(message)
        if len(body) > LONGEST_FRAME:
            return False
        length = len(body).to_bytes(LENGTH_BYTES, "little")
        if len(body) < _SOONER_COPIED:
            self._transport.write(length + body)
        else:
            self._transport.write(length)
            self._transport.write(body)
        return True

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        frames.feed(data)
        try:
            while (frame := frames.next()) is not None:
                self._take(_decoder.decode(frame))
        except (msgspec.MsgspecError, ValueError) as error:
            # Whoever it is does not speak the conductor's language.
            self.why = f"what it said is no word of a KV Conductor: {error}"
            self.abort()

    def _take(self, message: FromConductor) -> None:
        self.greeted = True
        if isinstance(message, Followed):
            self.holders = Holders(message.endpoints, message.revision)
            return
        waiting = self.waiting.get(message.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(self._matches(message))

    def _matches(self, message: PrefixMatches) -> Matches:
        holders = self.holders
        if holders is None or holders.revision != message.revision:
            raise ValueError("an answer by a list of endpoints that was not told")
        # Of few figures arrays are sooner made than numpy's.
        slots = array("H", message.slots)
        on_device, in_any_tier, expected = (
            array("I", field) for field in (message.on_device, message.in_any_tier, message.expected)
        )
        if not len(slots) == len(on_device) == len(in_any_tier) == len(expected) or _highest(slots) >= holders.size:
            raise ValueError("an answer whose columns do not fit together")
        return Matches(holders, message.number, slots, on_device, in_any_tier, expected)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.why = why_not(exc)
        if not self.lost.done():
            self.lost.set_result(None)
        for waiting in self.waiting.values():
            _give_up(waiting)

    def abort(self) -> None:
        """Close it now."""
        self._transport.abort()


def _highest(slots: array[int]) -> int:
    return max(slots, default=-1) if len(slots) <= FEW else int(np.frombuffer(slots, np.uint16).max())


def _tell(keeping: asyncio.Task[None]) -> None:
    if not keeping.cancelled() and keeping.exception() is not None:
        logger.error("the KV Conductor is not asked any more: texts are compared", exc_info=keeping.exception())


def _give_up(waiting: asyncio.Future[Matches | None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _abandon(connecting: asyncio.Task[tuple[asyncio.Transport, _Connection]]) -> None:
    """Nobody waits for the connection any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()
