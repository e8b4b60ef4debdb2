"""HTTP/1.1 toward clients: one request handled at a time on a connection, in the order they came.

Hot path. A connection hands each complete request to its handler as a task and cancels the task when the client goes
away. What a client may send is in `request_reader`; how long it may take, and what it may leave unread, is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Protocol

from pymotor.coordinator.http.client_request import ClientRequest, Limits, Refused
from pymotor.coordinator.http.framing import LAST_CHUNK, chunk
from pymotor.coordinator.http.request_reader import RequestReader

IDLE_SECONDS = 120.0
"""A client's idle connection is closed after so long."""
_LINGER_SECONDS = 5.0
"""What the client of a connection that was ended still sends is read for so long, so that it is not reset."""
_TASK = "request"
"""A name for all: making one up for each costs a hundredth of a request."""
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_QUEUE_LIMIT = 16
_QUEUED_BODY_LIMIT = 65536
_PIPELINE_LIMIT = 1024

Handler = Callable[["ClientConnection", ClientRequest], Coroutine[Any, Any, None]]
Refusal = Callable[[ClientRequest, int, str], bytes]
"""Makes the whole response (head and body, closing) to a request that is refused before it is complete."""


class Connections(Protocol):
    """Those that are open: a set, or `OpenConnections` with its bound."""

    def add(self, connection: ClientConnection, /) -> None:
        """It has been opened."""

    def discard(self, connection: ClientConnection, /) -> None:
        """It is closed."""


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_connections",
        "_handler",
        "_limits",
        "_loop",
        "_paused_reading",
        "_queue",
        "_reader",
        "_refusal",
        "_refused",
        "_task",
        "_unsent",
        "closed",
        "deadline",
        "ended",
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
        connections: Connections,
    ) -> None:
        """`connections` holds every open connection, for the owner's sweep of deadlines."""
        self._loop = loop
        self._handler = handler
        self._refusal = refusal
        self._limits = limits
        self._connections = connections
        self._reader = RequestReader(limits, self)
        self._paused_reading = False
        self._queue: list[ClientRequest] = []
        self._refused: tuple[ClientRequest, Refused] | None = None
        self._task: asyncio.Task[None] | None = None
        self._unsent = 0
        self.on_writable: Callable[[bool], None] | None = None
        self.writable = True
        self.responding = False
        """Whether a head was sent for the request in hand and its body is not over."""
        self.closed = False
        self.ended = False
        """Whether nothing more is sent but what waits to be, and what comes is dropped."""
        self.deadline = monotonic() + limits.head_time
        """When the client must have sent or, of a response, taken something; 0 while it waits for us."""
        self.transport: asyncio.Transport

    @property
    def idle(self) -> bool:
        """Whether no request is in hand."""
        return self._task is None

    @property
    def quiet(self) -> bool:
        """Whether no request is in hand or has begun to come, where one may come."""
        return self._task is None and not self._reader.pending and not self.ended

    @property
    def unsent(self) -> bool:
        """Whether the client has not taken all that was written."""
        return self._waiting() > 0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)

    def pause_writing(self) -> None:
        self.writable = False
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = monotonic() + self._limits.body_idle
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        self.deadline = 0.0 if self._task is not None else monotonic() + self._limits.body_idle
        if self.on_writable is not None:
            self.on_writable(True)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.closed = True
        self._connections.discard(self)
        self._reader.close()
        self._queue.clear()
        self._refused = None
        if self._task is not None:
            self._task.cancel()

    # -- what the reader finds

    def on_request(self, request: ClientRequest) -> None:
        """See `Reading`."""
        if self._task is None:
            self.deadline = 0.0
            self._start(request)
            return
        queue = self._queue
        queue.append(request)
        if len(queue) > _PIPELINE_LIMIT:
            raise Refused(429, f"more than {_PIPELINE_LIMIT} requests were sent without waiting for an answer")
        if not self._paused_reading and (len(queue) >= _QUEUE_LIMIT or len(request.body) > _QUEUED_BODY_LIMIT):
            self._paused_reading = True
            self.transport.pause_reading()

    def on_expect(self) -> None:
        """See `Reading`."""
        if self._task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_refused(self, request: ClientRequest, error: Refused) -> None:
        """See `Reading`. Requests that came whole before it are answered first."""
        if self._task is None:
            self._refuse(request, error)
        else:
            self._refused = request, error

    # -- requests and responses

    def _start(self, request: ClientRequest) -> None:
        if self._limits.closing and not self._queue and not self._reader.pending:
            request.keep_alive = False
        task = self._loop.create_task(self._handle(request), name=_TASK)
        self._task = task

    async def _handle(self, request: ClientRequest) -> None:
        try:
            await self._handler(self, request)
        finally:
            self._task = None
            self.on_writable = None
            if self.responding:
                self.break_off()
            elif not request.keep_alive:
                self.end()
            elif self._queue or self._refused is not None or self._reader.pending:
                self._go_on()
            else:
                self.deadline = monotonic() + IDLE_SECONDS

    def _go_on(self) -> None:
        """The next of what was sent before an answer to the last was there."""
        if self.closed:
            return
        if self._queue:
            request = self._queue.pop(0)
            if self._paused_reading and not self._queue:
                self._paused_reading = False
                self.transport.resume_reading()
            self._start(request)
        elif self._refused is not None:
            self._refuse(*self._refused)
        else:
            self._reader.wait_on()
            if self._reader.expecting:
                self.on_expect()

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

    def _refuse(self, request: ClientRequest, error: Refused) -> None:
        """Answer a request that is not complete; there will be no other."""
        if self.transport.is_closing():
            return
        self.transport.write(self._refusal(request, error.status, str(error)))
        if self.transport.can_write_eof():
            self.end()
        else:
            # Closed, TLS reads no more of what the client is about to send.
            self.ended = True
            self.deadline = monotonic() + _LINGER_SECONDS

    def end(self) -> None:
        """Close when all is sent and the client closes, or does not for a while. Until then what it still sends is read
        and dropped: bytes that nobody reads make the end of a connection a reset, which can take answers with it."""
        if self.ended or self.transport.is_closing():
            return
        self.ended = True
        self._queue.clear()
        self._refused = None
        self._reader.stop()
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        self._unsent = self._waiting()
        self.deadline = monotonic() + (self._limits.body_idle if self._unsent else _LINGER_SECONDS)

    def break_off(self) -> None:
        """End at once. A response that did not end must not look whole: without its last chunk it does not, but in
        HTTP/1.0, where the end of the connection is the end of the stream, it takes a reset."""
        if self.responding and not self._reader.latest.http_11:
            self._drop_unsent()
        self.responding = False
        self.transport.abort()

    def check_deadline(self, now: float) -> None:
        """Close if the client has been too slow; called about once a second."""
        if (self.ended or not self.writable) and self._takes():
            self.deadline = now + (self._limits.body_idle if self._unsent else _LINGER_SECONDS)
        elif self._task is None and self._reader.pending:
            if now >= self._reader.deadline:
                self._reader.refuse(Refused(408, "the request did not arrive in time"))
        elif self.deadline and now >= self.deadline:
            if self.writable and self.quiet:
                self.end_if_nothing_comes()
                return
            if not self.writable:
                self._drop_unsent()
            self.transport.abort()

    def _drop_unsent(self) -> None:
        """Have the end of the connection be a reset: else the kernel keeps megabytes for minutes for a client that
        takes nothing, of an answer that is broken off anyway."""
        own: socket.socket = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the client has reset it meanwhile
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)

    def _takes(self) -> bool:
        """Whether the client has taken something of what waits for it since this was asked last."""
        before, self._unsent = self._unsent, self._waiting()
        return self._unsent != before

    def _waiting(self) -> int:
        """Bytes that the client has yet to take and that an end at once would lose. Over TLS not all of them can be
        seen, but none wait here while the kernel has nothing to send."""
        waiting = self.transport.get_write_buffer_size()
        if self.transport.get_extra_info("ssl_object") is not None:
            waiting += self._of_kernel(termios.TIOCOUTQ)
        return waiting

    def close_after_this(self) -> None:
        """Have the answer to the request in hand be the last, and say so; without effect where its head is out or
        another request has come already."""
        if self._task is not None and not self.responding and not self._queue and not self._reader.pending:
            self._reader.latest.keep_alive = False

    def end_if_nothing_comes(self) -> None:
        """End a quiet connection, unless the client has sent what was not read yet."""
        if not self._unread():
            self.end()

    def _unread(self) -> bool:
        """Whether the client has sent what was not read yet."""
        return self._of_kernel(termios.FIONREAD) > 0

    def _of_kernel(self, figure: int) -> int:
        """What the kernel says of the socket; 0 where that is closed."""
        connected = self.transport.get_extra_info("socket")
        if connected is None or connected.fileno() < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(connected.fileno(), figure, bytes(4)), sys.byteorder)
