"""Receivers of an engine's reply: whole in memory here; streams are relayed in `flows.relay`."""

from __future__ import annotations

import asyncio

from pymotor.coordinator.http.exchange import BadReply, Headers, UpstreamError
from pymotor.coordinator.http.upstream import UpstreamConnection

REPLY_LIMIT = 256 * 1024 * 1024


class WholeReply:
    """Collects a reply; `done` is set when it is whole or has failed."""

    __slots__ = ("_pieces", "_size", "connection", "done", "headers", "status")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: Headers = []
        self._pieces: list[bytes] = []
        self._size = 0
        self.connection: UpstreamConnection | None = None
        self.done: asyncio.Future[None] = loop.create_future()

    @property
    def body(self) -> bytes:
        """The reply's body as far as it has come."""
        pieces = self._pieces
        if len(pieces) != 1:
            self._pieces = pieces = [b"".join(pieces)]
        return pieces[0]

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, by its name in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def on_head(self, status: int, headers: Headers) -> None:
        """See `Receiver`."""
        self.status = status
        self.headers = headers

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        self.on_payload(wire[start:-2])

    def on_payload(self, payload: bytes) -> None:
        """See `Receiver`."""
        self._size += len(payload)
        if self._size <= REPLY_LIMIT:
            self._pieces.append(payload)
        else:
            self._pieces.clear()

    def on_complete(self) -> None:
        """See `Receiver`."""
        if self._size > REPLY_LIMIT:
            self.on_failed(BadReply("the reply is larger than 256 MiB"))
        elif not self.done.done():
            self.done.set_result(None)

    def on_failed(self, error: UpstreamError) -> None:
        """See `Receiver`."""
        if not self.done.done():
            self.done.set_exception(error)
