"""HTTP/1.1 toward clients: requests parsed by llhttp, one handled at a time on a connection.

Hot path. A connection hands each complete request to its handler as a task and cancels the task when the
client goes away. Limits on head and body size and on slowness are kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import httptools

from pymotor.coordinator.http.client_request import ClientRequest, Limits
from pymotor.coordinator.http.framing import LAST_CHUNK, chunk

IDLE_SECONDS = 120.0
"""A client's idle connection is closed after so long."""
_LINGER_SECONDS = 5.0
_QUEUE_LIMIT = 16
_OF_UPGRADE = frozenset((b"upgrade", b"connection", b"http2-settings"))


Handler = Callable[["ClientConnection", ClientRequest], Coroutine[Any, Any, None]]
Refusal = Callable[[ClientRequest, int, str], bytes]
"""Makes the whole response (head and body, closing) to a request that is refused before it is complete."""


def _origin_form(target: bytes) -> bytes:
    """The path of a request target in absolute form, which servers have to accept (RFC 9112, section 3.2.2)."""
    _, _, rest = target.partition(b"://")
    _, slash, path = rest.partition(b"/")
    return slash + path


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_body",
        "_body_size",
        "_connections",
        "_discarding",
        "_handler",
        "_head_done",
        "_head_received",
        "_head_size",
        "_limits",
        "_loop",
        "_parser",
        "_paused_reading",
        "_pending",
        "_queue",
        "_refusal",
        "_request",
        "_task",
        "_upgrading",
        "_url",
        "closed",
        "deadline",
        "on_writable",
        "responding",
        "transport",
        "writable",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        refusal: Refusal,
        limits: Limits,
        connections: set[ClientConnection],
    ) -> None:
        """`connections` holds every open connection, for the owner's sweep of deadlines."""
        self._loop = loop
        self._handler = handler
        self._refusal = refusal
        self._limits = limits
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._request = ClientRequest()
        self._url = b""
        self._body: list[bytes] = []
        self._body_size = 0
        self._head_size = 0
        self._head_received = 0
        self._head_done = False
        self._pending = False
        self._discarding = False
        self._upgrading = False
        self._paused_reading = False
        self._queue: list[ClientRequest] = []
        self._task: asyncio.Task[None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.writable = True
        self.responding = False
        """Whether a head was sent for the request in hand and its body is not over."""
        self.closed = False
        self.deadline = monotonic() + limits.head_time
        self.transport: asyncio.Transport

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if not self._discarding:
                self._refuse(400, "this is not an HTTP/1.1 request")
            return
        if self._pending and not self._head_done:
            self._head_received += len(data)
            if self._head_received > self._limits.head_bytes:
                self._refuse(431, f"the request's headers are larger than {self._limits.head_bytes} bytes")

    def pause_writing(self) -> None:
        self.writable = False
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self.on_writable is not None:
            self.on_writable(True)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.closed = True
        self._connections.discard(self)
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    # -- llhttp's callbacks

    def on_message_begin(self) -> None:
        self._pending = True
        self._head_done = False
        self._head_size = 0
        self._head_received = 0
        self._body_size = 0
        self._url = b""
        self._request = ClientRequest()
        self.deadline = monotonic() + self._limits.head_time

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        self._request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._request
        parser = self._parser
        self._head_done = True
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        if parser.should_upgrade():
            self._upgrading = True
            return
        version = parser.get_http_version()
        request.http_11 = version == "1.1"
        path, _, request.query = self._url.partition(b"?")
        request.path = path if path.startswith(b"/") else _origin_form(path)
        limits = self._limits
        if not request.http_11 and version != "1.0":
            self._refuse(400, "this server speaks HTTP/1.1 and HTTP/1.0")
            return
        if self._head_size + len(self._url) > limits.head_bytes:
            self._refuse(431, f"the request's headers are larger than {limits.head_bytes} bytes")
            return
        headers = request.headers
        length = headers.get(b"content-length")
        if length is not None and int(length) > limits.body_bytes:
            self._refuse(413, f"the request's body is larger than {limits.body_bytes} bytes")
            return
        expects = b"expect" in headers and headers[b"expect"].lower() == b"100-continue"
        if expects and request.http_11 and self._task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.deadline = monotonic() + limits.body_idle

    def on_body(self, data: bytes) -> None:
        if self._discarding:
            return
        self._body_size += len(data)
        if self._body_size > self._limits.body_bytes:
            self._refuse(413, f"the request's body is larger than {self._limits.body_bytes} bytes")
            return
        self._body.append(data)
        self.deadline = monotonic() + self._limits.body_idle

    def on_message_complete(self) -> None:
        if self._discarding or self._upgrading:
            return
        request = self._request
        body = self._body
        if len(body) == 1:
            request.body = body[0]
        elif body:
            request.body = b"".join(body)
        self._body = []
        self._pending = False
        self.deadline = 0.0
        request.received_at = monotonic()
        if self._task is None:
            self._start(request)
            return
        self._queue.append(request)
        if len(self._queue) >= _QUEUE_LIMIT and not self._paused_reading:
            self._paused_reading = True
            self.transport.pause_reading()

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Take a request that offers to switch protocols as one that does not (RFC 9110, section 7.8): Java's client
        offers HTTP/2 with its first. llhttp stops behind the head of such a request, so the head is read again
        without the offer."""
        request = self._request
        self._upgrading = False
        if request.method == b"CONNECT":
            self._refuse(501, "this server is no tunnel")
            return
        lines = [b"%b %b HTTP/1.1" % (request.method, self._url)]
        lines += [b"%b: %b" % header for header in request.headers.items() if header[0] not in _OF_UPGRADE]
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    # -- requests and responses

    def _start(self, request: ClientRequest) -> None:
        task = self._loop.create_task(self._handle(request))
        self._task = task

    async def _handle(self, request: ClientRequest) -> None:
        try:
            await self._handler(self, request)
        finally:
            self._task = None
            self.on_writable = None
            if self.responding or not request.keep_alive:
                # A response that did not end must not look whole: the connection ends without its last chunk.
                broken = self.responding
                self.responding = False
                if broken:
                    self.transport.abort()
                else:
                    self.transport.close()
            elif self._queue and not self.closed:
                if self._paused_reading:
                    self._paused_reading = False
                    self.transport.resume_reading()
                self._start(self._queue.pop(0))
            elif not self._pending:
                self.deadline = monotonic() + IDLE_SECONDS

    def respond(self, head: bytes, body: bytes = b"") -> None:
        """Send a whole response; `head` ends in an empty line and gives the body's length."""
        if self.transport.is_closing():
            return
        if len(body) < 65536:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def begin_stream(self, head: bytes, first: bytes) -> None:
        """Send a chunked response's head and the chunks (framed) that are there already."""
        self.responding = True
        self.write(head + first)

    def write(self, data: bytes) -> None:
        """Send bytes of a response that has begun; dropped when the client is gone, which its task learns next."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def end_stream(self, last: bytes = b"") -> None:
        """Send `last`, unframed payload, if any, and the end of a chunked response."""
        self.responding = False
        self.write(chunk(last) + LAST_CHUNK if last else LAST_CHUNK)

    # -- refusals and deadlines

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that is not complete, then read and drop what the client still sends, so that it
        gets to see the answer instead of a reset."""
        self._discarding = True
        self._body = []
        self._pending = False
        if self._task is None:
            self.transport.write(self._refusal(self._request, status, message))
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self._queue.clear()
            self.transport.abort()
        self.deadline = monotonic() + _LINGER_SECONDS

    def check_deadline(self, now: float) -> None:
        """Close if the client has been too slow; called about once a second."""
        if not self.deadline or now < self.deadline:
            return
        if self._pending and self._task is None and not self._discarding:
            self._refuse(408, "the request did not arrive in time")
        else:
            self.transport.abort()

    def close_when_idle(self) -> bool:
        """Close unless a request is in hand; returns whether it is closed. For a server that drains."""
        if self._task is None:
            self.transport.close()
            return True
        return False
