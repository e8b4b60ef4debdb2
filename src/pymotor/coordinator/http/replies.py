"""Receivers of an engine's reply: whole in memory here; streams are relayed in `flows.relay`."""

from __future__ import annotations

import asyncio

import msgspec

from pymotor.coordinator.http.exchange import BadReply, Headers, UpstreamError
from pymotor.coordinator.http.upstream import UpstreamConnection

REPLY_LIMIT = 256 * 1024 * 1024


class WholeReply(msgspec.Struct, eq=False):
    """Collects a reply. A `Struct` because making one has to cost little."""

    done: asyncio.Future[None]
    """Set when it is whole or has failed."""
    status: int = 0
    headers: Headers = []
    body: bytes = b""
    """Once it is whole."""
    pieces: list[bytes] = []
    """Of the body as far as it has come, where it does not come at once."""
    size: int = 0
    """Bytes of them."""
    connection: UpstreamConnection | None = None

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
        self.size += len(payload)
        if self.size <= REPLY_LIMIT:
            self.pieces.append(payload)
        else:
            self.pieces.clear()

    def on_complete(self) -> None:
        """See `Receiver`."""
        if self.size > REPLY_LIMIT:
            self.on_failed(BadReply("the reply is larger than 256 MiB"))
            return
        self.body = b"".join(self.pieces)
        if not self.done.done():
            self.done.set_result(None)

    def on_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Receiver`."""
        self.status = status
        self.headers = headers
        self.body = body
        if not self.done.done():
            self.done.set_result(None)

    def on_failed(self, error: UpstreamError) -> None:
        """See `Receiver`."""
        if not self.done.done():
            self.done.set_exception(error)
