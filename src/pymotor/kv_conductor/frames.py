"""The frames of `pymotor.fleet.prefix_queries`, as the conductor speaks them with one Coordinator process.

Answers go out in the order of the questions. A client that does not read its answers is not read from, and left when
that lasts; one that asks much takes turns with everything else of this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from time import perf_counter
from typing import Protocol, cast

import msgspec

from pymotor.control_plane import ClusterToken
from pymotor.fleet.prefix_frames import FrameReader, FrameTooLongError
from pymotor.fleet.prefix_queries import (
    LENGTH_BYTES,
    LONGEST_FRAME,
    Followed,
    FromCoordinator,
    Hello,
    PrefixMatches,
    PrefixQuery,
    PrefixRouted,
)
from pymotor.kv_conductor.instruments import Figures

logger = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
UNREAD_SECONDS = 10.0
"""How long a client may leave its answers unread."""
_LONGEST_HELLO = 4096
_UNREAD_BYTES = 4 * 1024 * 1024
_SLICE_SECONDS = 0.002

_decoder = msgspec.msgpack.Decoder(FromCoordinator)
_encoder = msgspec.msgpack.Encoder()


class Answerer(Protocol):
    """What is known of prefixes."""

    @property
    def followed(self) -> Followed:
        """The list that slots mean now."""

    def match(self, asker: Hashable, query: PrefixQuery) -> PrefixMatches:
        """Who holds the beginning of this prompt; the question is kept for a while, for `routed`."""

    def routed(self, asker: Hashable, message: PrefixRouted) -> bool:
        """The prompt of that question, of this asker, was sent there. False: nothing is expected because of it."""

    def forget_asker(self, asker: Hashable) -> None:
        """The asker is gone."""


class FrameError(Exception):
    """What a client sends cannot be read; the message says why."""


class CoordinatorConnection(asyncio.Protocol):
    """One client, behind its `PREFACE`."""

    def __init__(
        self, answerer: Answerer, token: ClusterToken | None, figures: Figures, connections: set[CoordinatorConnection]
    ) -> None:
        """`connections`: where it stands while it may be told of `Followed`; whoever closes all closes those."""
        self._answerer = answerer
        self._token = token
        self._figures = figures
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader(_LONGEST_HELLO)
        self._greeted = False
        self._certified = False
        """Whether the client has shown a certificate of the plane."""
        self._writable = True
        self._going_on = False
        self._told_revision = -1
        self._deadline: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has to say who it is."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        greeted = transport.get_extra_info("ssl_object")
        self._certified = greeted is not None and greeted.getpeercert(binary_form=True) is not None
        self._deadline = self._loop.call_later(HELLO_SECONDS, self._leave, "it did not say hello")

    def data_received(self, data: bytes) -> None:
        """Questions, or parts of them."""
        self._frames.feed(data)
        if not self._going_on and self._writable:
            self._work()

    def eof_received(self) -> bool:
        """It asks nothing any more; what it asked was answered when it was read."""
        return False

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Gone."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
        self._frames.clear()
        if self in self._connections:
            self._connections.discard(self)
            self._figures.connections.add(-1)
            self._answerer.forget_asker(self)

    def pause_writing(self) -> None:
        """It does not read: then it is not read from either."""
        self._writable = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._deadline = self._loop.call_later(UNREAD_SECONDS, self._leave, "it does not read its answers")

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.tell_followed()
            if not self._going_on:
                self._work()

    # -- what it is told

    def tell_followed(self) -> None:
        """Say what is followed, where that is new to the client and it reads."""
        followed = self._answerer.followed
        if self._writable and self._told_revision != followed.revision:
            self._told_revision = followed.revision
            self._write(followed)

    def close(self) -> None:
        """The conductor ends."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, message: Followed | PrefixMatches) -> None:
        if self._transport is not None and not self._transport.is_closing():
            content = _encoder.encode(message)
            self._transport.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)

    def _leave(self, why: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            peer = self._transport.get_extra_info("peername")
            logger.warning("the connection of %s is closed: %s", peer, why)
            self._transport.abort()

    # -- what it asks

    def _work(self) -> None:
        """Answer what has come whole, for a slice of time."""
        self._going_on = False
        ends = perf_counter() + _SLICE_SECONDS
        try:
            while self._writable and self._transport is not None and not self._transport.is_closing():
                frame = self._frames.next()
                if frame is None:
                    break
                self._take(_decoder.decode(frame))
                if perf_counter() > ends:
                    self._going_on = True
                    break
        except (FrameError, FrameTooLongError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._leave(f"its frames cannot be read: {error}")
            return
        if self._going_on and self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._work()
        if not self._going_on and self._writable and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, message: FromCoordinator) -> None:
        if isinstance(message, Hello):
            self._hello(message)
        elif not self._greeted:
            raise FrameError("it asks before it says hello")
        elif isinstance(message, PrefixQuery):
            self._query(message)
        elif not self._answerer.routed(self, message):
            self._figures.routed_passed_over.add()

    def _hello(self, message: Hello) -> None:
        if self._greeted:
            raise FrameError("it says hello twice")
        if self._token is not None and not self._certified and not self._token.is_shown(message.token):
            raise FrameError("the cluster token is missing or wrong")
        self._greeted = True
        self._frames.longest = LONGEST_FRAME
        if self._deadline is not None:
            self._deadline.cancel()
        self._connections.add(self)
        self._figures.connections.add()
        self.tell_followed()

    def _query(self, query: PrefixQuery) -> None:
        if len(query.tokens) % 4:
            raise FrameError("a prompt's tokens have 4 bytes each")
        began = perf_counter()
        self._write(self._answerer.match(self, query))
        self._figures.queries.add()
        self._figures.query_seconds.observe(perf_counter() - began)
