"""Connections to engines: kept alive, one exchange at a time, bytes handed to a receiver as they come.

Hot path. The head of a reply is parsed by llhttp; of a body only the framing is looked at, and a stream's
chunk that arrives whole is handed on as it stood on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

import httptools

from pymotor.coordinator.http.framing import ChunkedDecoder, FramingError

IDLE_SECONDS = 4.0
"""Engines (uvicorn) close idle connections after 5 s; ours go before that."""
_HEAD_LIMIT = 65536
_HEADS_KEPT = 1024

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """A leg failed in transport; `reason` is one word for metrics."""

    reason = "transport"


class ConnectFailed(UpstreamError):
    """No connection: refused, unreachable or too slow. The engine has not seen the request."""

    reason = "connect"


class StaleConnection(UpstreamError):
    """A kept-alive connection was closed before a byte of the reply came."""

    reason = "stale"


class ConnectionBroken(UpstreamError):
    """The engine closed or reset the connection before the reply was whole."""

    reason = "reset"


class BadReply(UpstreamError):
    """The engine's bytes are not HTTP as they should be."""

    reason = "protocol"


class DeadlineExceeded(UpstreamError):
    """The engine did not answer in time."""

    reason = "timeout"


class Receiver(Protocol):
    """Who gets a reply's parts, in this order: head, then chunks or payloads, then complete or failed."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status and headers, names in lower case."""

    def on_chunk(self, wire: bytes, start: int) -> None:
        """One whole chunk as it stood on the wire; its payload is `wire[start:-2]`."""

    def on_payload(self, payload: bytes) -> None:
        """A piece of the body without framing."""

    def on_complete(self) -> None:
        """The reply is whole."""

    def on_failed(self, error: UpstreamError) -> None:
        """There will be no more."""


class _HeadParser:
    """Collects one reply's head from llhttp."""

    __slots__ = ("headers", "keep_alive", "parser", "status")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.status = 0
        self.keep_alive = True
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()


class _Head:
    """A reply's head, read; shared by all replies whose head has the same bytes, so nothing changes it."""

    __slots__ = ("chunked", "headers", "keep_alive", "length", "status")

    def __init__(self, data: bytes) -> None:
        """`data` ends in the empty line. Raises `BadReply`."""
        parser = _HeadParser()
        try:
            parser.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise BadReply(f"not an HTTP reply: {error}") from error
        self.status = parser.status
        self.headers = parser.headers
        # After a 5xx vLLM closes the connection without saying so.
        self.keep_alive = parser.keep_alive and parser.status < 500
        self.chunked = False
        self.length: int | None = 0 if parser.status in (204, 304) else None
        for name, value in parser.headers:
            if name == b"content-length" and self.length is None:
                self.length = int(value)
            elif name == b"transfer-encoding":
                self.chunked = value.lower().endswith(b"chunked")


class UpstreamConnection(asyncio.Protocol):
    """One connection to one engine server; owned by its pool while idle, by one leg while busy."""

    __slots__ = (
        "_decoder",
        "_head_bytes",
        "_keep_alive",
        "_pool",
        "_receiver",
        "_remaining",
        "_until_close",
        "closed",
        "deadline",
        "idle_seconds",
        "idle_since",
        "paused",
        "reused",
        "stirred",
        "transport",
        "whole_by",
    )

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._receiver: Receiver | None = None
        self._head_bytes: bytes | None = None
        self._decoder: ChunkedDecoder | None = None
        self._remaining = 0
        self._until_close = False
        self._keep_alive = True
        self.closed = False
        self.reused = False
        self.idle_since = 0.0
        self.deadline = 0.0
        self.idle_seconds = 0.0
        self.whole_by = 0.0
        self.stirred = False
        self.paused = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(
        self,
        buffers: Sequence[bytes | memoryview],
        receiver: Receiver,
        *,
        first_byte_by: float,
        idle_seconds: float,
        whole_by: float,
    ) -> None:
        """Send one request. The reply's first byte must be there by `first_byte_by` and the whole by `whole_by`,
        `monotonic()` times; in between no silence may be longer than `idle_seconds`."""
        self._receiver = receiver
        self._head_bytes = b""
        self.deadline = min(first_byte_by, whole_by)
        self.idle_seconds = idle_seconds
        self.whole_by = whole_by
        self.stirred = False
        self._pool.busy.add(self)
        if len(buffers) == 1:
            self.transport.write(buffers[0])
        else:
            self.transport.writelines(buffers)

    def data_received(self, data: bytes) -> None:
        self.stirred = True
        receiver = self._receiver
        if receiver is None:
            self.transport.abort()
            return
        decoder = self._decoder
        if decoder is not None:
            end = data.find(b"\r\n", 1, 18)
            if end > 0 and decoder.at_boundary:
                try:
                    size = int(data[:end], 16)
                except ValueError:
                    size = -1
                if size > 0 and end + size + 4 == len(data) and data.endswith(b"\r\n"):
                    receiver.on_chunk(data, end + 2)
                    return
            self._feed_chunked(decoder, receiver, data)
        elif self._head_bytes is not None:
            self._feed_head(receiver, self._head_bytes + data if self._head_bytes else data)
        elif self._until_close:
            receiver.on_payload(data)
        else:
            self._feed_sized(receiver, data)

    def _feed_head(self, receiver: Receiver, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _HEAD_LIMIT:
                self._fail(BadReply("the reply's head is larger than 64 KiB"))
            else:
                self._head_bytes = data
            return
        end += 4
        head_bytes = data[:end]
        try:
            head = self._pool.shared.heads.get(head_bytes) or self._pool.shared.read_head(head_bytes)
        except BadReply as error:
            self._fail(error)
            return
        rest = data[end:]
        if 100 <= head.status < 200:
            self._head_bytes = b""
            if rest:
                self._feed_head(receiver, rest)
            return
        self._begin_body(receiver, head, rest)

    def _begin_body(self, receiver: Receiver, head: _Head, rest: bytes) -> None:
        self._head_bytes = None
        self._keep_alive = head.keep_alive
        if head.chunked:
            self._decoder = ChunkedDecoder()
            receiver.on_head(head.status, head.headers)
            if rest and self._receiver is receiver:
                self._feed_chunked(self._decoder, receiver, rest)
        elif head.length is None:
            self._until_close = True
            self._keep_alive = False
            receiver.on_head(head.status, head.headers)
            if rest and self._receiver is receiver:
                receiver.on_payload(rest)
        else:
            self._remaining = head.length
            receiver.on_head(head.status, head.headers)
            if self._receiver is receiver:
                self._feed_sized(receiver, rest)

    def _feed_sized(self, receiver: Receiver, data: bytes) -> None:
        if len(data) > self._remaining:
            self._keep_alive = False
            data = data[: self._remaining]
        self._remaining -= len(data)
        if data:
            receiver.on_payload(data)
        if not self._remaining and self._receiver is receiver:
            self._complete()

    def _feed_chunked(self, decoder: ChunkedDecoder, receiver: Receiver, data: bytes) -> None:
        try:
            payload, over = decoder.feed(data)
        except FramingError as error:
            self._fail(BadReply(str(error)))
            return
        if payload:
            receiver.on_payload(payload)
        if over and self._receiver is receiver:
            if decoder.rest:
                self._keep_alive = False
            self._complete()

    def _complete(self) -> None:
        receiver = self._receiver
        self._release()
        self.resume()
        if self._keep_alive and not self.closed:
            self._pool.put_back(self)
        else:
            self.transport.abort()
        if receiver is not None:
            receiver.on_complete()

    def _release(self) -> None:
        self._receiver = None
        self._decoder = None
        self._head_bytes = None
        self._until_close = False
        self.deadline = 0.0
        self._pool.busy.discard(self)

    def _fail(self, error: UpstreamError) -> None:
        receiver = self._receiver
        self._release()
        self.transport.abort()
        if receiver is not None:
            receiver.on_failed(error)

    def check_deadline(self, now: float) -> None:
        """Fail the exchange if the engine has been silent for too long; called about once a second."""
        if self.stirred or self.paused:
            self.stirred = False
            self.deadline = min(now + self.idle_seconds, self.whole_by)
        if now >= self.deadline:
            self._fail(DeadlineExceeded("no answer in time"))

    def abandon(self) -> None:
        """Close at once and tell nobody: the leg is not wanted any more."""
        self._release()
        self.transport.abort()

    def pause(self) -> None:
        """Stop reading: the client is slower than the engine. Its silence then is not the engine's."""
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            self.stirred = True
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._pool.forget(self)
        receiver = self._receiver
        if receiver is None:
            return
        untouched = self._head_bytes == b""
        complete = self._until_close and exc is None
        self._release()
        if complete:
            receiver.on_complete()
        elif untouched and self.reused:
            receiver.on_failed(StaleConnection("a kept-alive connection was closed"))
        else:
            receiver.on_failed(
                ConnectionBroken(f"connection closed before the reply was whole ({exc or 'end of file'})")
            )


class SharedState:
    """What all pools of a worker share."""

    __slots__ = ("busy", "heads")

    def __init__(self) -> None:
        self.busy: set[UpstreamConnection] = set()
        """Connections with a running exchange, for the owner's sweep of deadlines."""
        self.heads: dict[bytes, _Head] = {}
        """Heads of replies seen lately: those of one engine version are the same for a second at a time."""

    def read_head(self, data: bytes) -> _Head:
        """Parse a head that is not in `heads`, and keep it there. Raises `BadReply`."""
        head = _Head(data)
        if len(self.heads) >= _HEADS_KEPT:
            self.heads.clear()
        self.heads[data] = head
        return head


class UpstreamPool:
    """Connections to one engine server."""

    __slots__ = ("_closed", "_host", "_idle", "_port", "busy", "shared")

    def __init__(self, host: str, port: int, shared: SharedState) -> None:
        self._host = host
        self._port = port
        self._idle: list[UpstreamConnection] = []
        self._closed = False
        self.shared = shared
        self.busy = shared.busy

    def take_idle(self) -> UpstreamConnection | None:
        """The most recently used idle connection that is surely still open at the other end, if any."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            if monotonic() - connection.idle_since < IDLE_SECONDS:
                connection.reused = True
                return connection
            connection.transport.abort()
        return None

    async def connect(self, timeout: float) -> UpstreamConnection:
        """A new connection. Raises `ConnectFailed`."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await asyncio.wait_for(
                loop.create_connection(lambda: UpstreamConnection(self), self._host, self._port), timeout
            )
        except asyncio.TimeoutError as error:
            raise ConnectFailed(f"no connection to {self._host}:{self._port} within {timeout:g} s") from error
        except OSError as error:
            raise ConnectFailed(f"no connection to {self._host}:{self._port}: {error.strerror or error}") from error
        return connection

    def put_back(self, connection: UpstreamConnection) -> None:
        """The exchange is over and the connection may serve another."""
        if self._closed:
            connection.transport.abort()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close_expired(self, now: float) -> None:
        """Close connections that have been idle too long."""
        while self._idle and now - self._idle[0].idle_since >= IDLE_SECONDS:
            self._idle.pop(0).transport.abort()

    def close(self) -> None:
        """Close what is idle now and, as they end, the busy ones; new connections are still possible."""
        self._closed = True
        while self._idle:
            self._idle.pop().transport.abort()
