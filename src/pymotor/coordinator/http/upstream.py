"""A connection to an engine: one exchange at a time, bytes handed to a receiver as they come.

Hot path. Of a body only the framing is looked at, and a stream's chunk that arrives whole is handed on as it stood
on the wire; while `pass_on` holds, to whom it says, and the receiver is not called for each.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pymotor.coordinator.http.event_passing import EventPassing
from pymotor.coordinator.http.exchange import (
    BadReply,
    ConnectFailed,
    ConnectionBroken,
    DeadlineExceeded,
    Receiver,
    StaleConnection,
    UpstreamError,
)
from pymotor.coordinator.http.framing import EVENT_END, NO_CHUNK, ChunkedDecoder, FramingError, only_chunk
from pymotor.coordinator.http.reply_head import HEAD_END, ReplyHead

if TYPE_CHECKING:
    from pymotor.coordinator.http.upstream_pool import UpstreamPool

_HEAD_LIMIT = 65536
_INTERIM_LIMIT = 32
_JOINED_BYTES = 16384


class UpstreamConnection(EventPassing):
    """One connection to one engine server; owned by its pool while idle, by one leg while busy."""

    __slots__ = (
        "_decoder",
        "_head_bytes",
        "_interim",
        "_keep_alive",
        "_pool",
        "_receiver",
        "_remaining",
        "_until_close",
        "closed",
        "deadline",
        "ending",
        "idle_seconds",
        "idle_since",
        "paused",
        "reused",
        "transport",
        "whole_by",
    )

    def __init__(self, pool: UpstreamPool) -> None:
        super().__init__(pool.shared.event_lines)
        self._pool = pool
        self._receiver: Receiver | None = None
        self._head_bytes: bytes | None = None
        self._interim = 0
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
        self.ending = False
        """Whether what the receiver gets is the last of a chunked body."""
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
        if self.closed or self.transport.is_closing():
            # The engine closed it, or said something unasked, before there was a request.
            receiver.on_failed(ConnectFailed("the engine closed the connection before the request was sent"))
            return
        self._receiver = receiver
        self._head_bytes = b""
        self._interim = 0
        self.deadline = first_byte_by if first_byte_by < whole_by else whole_by
        self.idle_seconds = idle_seconds
        self.whole_by = whole_by
        self.stirred = False
        self.ending = False
        self._pool.busy.add(self)
        if len(buffers) == 1:
            self.transport.write(buffers[0])
        elif sum(map(len, buffers)) < _JOINED_BYTES:
            # Cheaper than what the event loop does for several.
            self.transport.write(b"".join(buffers))
        else:
            self.transport.writelines(buffers)

    def data_received(self, data: bytes) -> None:
        write = self._pass_on
        if write is not None:
            # What every event of every stream costs. Calls that parse their arguments are dear, and `in` with bytes on
            # its left raises and drops an error first.
            try:
                line, length = self._event_lines[len(data)]
            except IndexError:
                line, length = NO_CHUNK
            inside = data.removeprefix(line).removesuffix(EVENT_END)
            if len(inside) == length and not inside.partition(self._unless)[1]:
                self._left = left = self._left - 1
                if not left:
                    self._next_lot()
                try:
                    write(data)
                except RuntimeError:
                    # uvloop, when the client has just gone: its connection's end cancels this request next.
                    return
                return
            if self._pass_several(data, write):
                return
            self._stop_passing()
        self.stirred = True
        receiver = self._receiver
        if receiver is None:
            self.transport.abort()
            return
        decoder = self._decoder
        if decoder is not None:
            if decoder.at_boundary:
                start = only_chunk(data, self._event_lines)
                if start:
                    receiver.on_chunk(data, start)
                    return
            self._feed_chunked(decoder, receiver, data)
        elif self._head_bytes is not None:
            self._feed_head(receiver, self._head_bytes + data if self._head_bytes else data)
        elif self._until_close:
            receiver.on_payload(data)
        else:
            self._feed_sized(receiver, data)

    def pass_on(self, write: Callable[[bytes], None], unless: bytes, tell: Callable[[int], int]) -> None:
        """Have reads that are one whole chunk which ends an event in a brace, without the bytes `unless`, go to `write`
        as they stand, and to nobody else; with the next read that is anything else this is over. `tell` is called with
        the number of those passed on since it was called last and says after how many more, at least 1, it is to be
        called again; it is called at the end of this too. Without effect inside of a chunk."""
        decoder = self._decoder
        if decoder is not None and decoder.at_boundary:
            self._begin_passing(write, unless, tell)

    def _feed_head(self, receiver: Receiver, data: bytes) -> None:
        while True:
            top, end, rest = data.partition(HEAD_END)
            if not end:
                if len(data) > _HEAD_LIMIT:
                    self._fail(BadReply("the reply's head is larger than 64 KiB"))
                else:
                    self._head_bytes = data
                return
            try:
                head = self._pool.shared.heads.read(top)
            except BadReply as error:
                self._fail(error)
                return
            if head.status >= 200:
                if len(rest) == head.length:
                    self._end_at_once(receiver, head, rest)
                else:
                    self._begin_body(receiver, head, rest)
                return
            data = rest
            self._interim += 1
            if self._interim > _INTERIM_LIMIT:
                self._fail(BadReply(f"more than {_INTERIM_LIMIT} interim replies"))
                return

    def _end_at_once(self, receiver: Receiver, head: ReplyHead, body: bytes) -> None:
        self._release()
        if self.paused:
            self.resume()
        if head.keep_alive and not self.closed:
            self._pool.put_back(self)
        else:
            self.transport.abort()
        receiver.on_whole(head.status, head.headers, body)

    def _begin_body(self, receiver: Receiver, head: ReplyHead, rest: bytes) -> None:
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
        self.ending = over
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
        if self._pass_on is not None:
            self._stop_passing()
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
        if self._stirred_lately() or self.paused:
            self.deadline = min(now + self.idle_seconds, self.whole_by)
        elif self._pool.suspect:
            self._fail(DeadlineExceeded("the engine is unhealthy and silent"))
            return
        if now >= self.deadline:
            self._fail(DeadlineExceeded("no answer in time"))

    def abandon(self, receiver: Receiver) -> None:
        """`receiver` does not want the reply any more: close at once and tell nobody. Without effect when the reply
        is over, since the connection may be another's by then."""
        if self._receiver is receiver:
            self._release()
            self.transport.abort()

    def pause(self) -> None:
        """Stop reading: the client is slower than the engine. Its silence then is not the engine's. Without effect when
        the reply is over."""
        if self._receiver is not None and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            self.stirred = True
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _unwelcome(self, exc: Exception | None) -> bool:
        """Whether the engine's side of the TLS handshake was never over. In TLS 1.3 ours is over first: that our
        certificate is refused is heard later, from an alert or, from asyncio's servers, by an end without a word. What
        an engine sends first after a good handshake are tickets (RFC 8446, section 4.6.1)."""
        if isinstance(exc, ssl.SSLError):
            return True
        layer: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        if layer is None:
            return False
        session = layer.session
        return session is None or not session.has_ticket

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._pool.forget(self)
        receiver = self._receiver
        if receiver is None:
            return
        untouched = self._head_bytes == b"" and not self._interim
        complete = self._until_close and exc is None
        self._release()
        if complete:
            receiver.on_complete()
        elif untouched and self.reused:
            receiver.on_failed(StaleConnection("a kept-alive connection was closed"))
        elif untouched and self._unwelcome(exc):
            receiver.on_failed(self._pool.refused_by_engine(exc))
        else:
            receiver.on_failed(
                ConnectionBroken(f"connection closed before the reply was whole ({exc or 'end of file'})")
            )
