"""One connection to a ZeroMQ socket of an engine, in the event loop: ZMTP 3.0 (RFC 23) without security mechanism.

An engine has a PUB socket for its events and a ROUTER for those that were missed. A connection is followed here from
its first byte to its end, so that what came before and after a break is never taken for one stream; a library that
reconnects by itself hides that. It costs one descriptor, no thread, and no task for a message.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol, cast

LONGEST_MESSAGE = 16 * 1024 * 1024
"""Bytes of one message, all its frames together; the events of a step have a few kB."""
MOST_FRAMES = 8
SUBSCRIBER, DEALER = "SUB", "DEALER"
"""Types of socket that this can be."""

_GREETING_BYTES = 64
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_GREETING = _SIGNATURE + bytes((3, 0)) + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_SUBSCRIBE = b"\x01"
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 10, 5, 3
"""A peer whose machine is gone is noticed after 10 s + 3 * 5 s of silence."""


class ZmtpError(Exception):
    """The peer does not speak ZMTP as it should, or refuses; the message says how."""


class Receiver(Protocol):
    """Who hears of a connection."""

    def opened(self) -> None:
        """The handshake is done."""

    def message(self, frames: list[bytes]) -> None:
        """One whole message; it has at least one frame."""

    def unreadable(self, why: str) -> None:
        """The peer does not keep to the protocol; the connection is closed."""

    def closed(self, reason: str) -> None:
        """Nothing comes any more; said once, in any case."""


class ZmtpConnection(asyncio.Protocol):
    """One connection, made by `connect`; `close` ends it."""

    def __init__(self, socket_type: str, receiver: Receiver) -> None:
        self._socket_type = socket_type
        self._receiver = receiver
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._needed = _GREETING_BYTES
        """Bytes without which parsing is not worth a try."""
        self._greeted = False
        self._ready = False
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._reason = ""

    # -- what its owner does

    def subscribe(self, topic: bytes) -> None:
        """As a subscriber: have all messages whose first frame begins with `topic`."""
        self.send([_SUBSCRIBE + topic])

    def send(self, frames: list[bytes]) -> None:
        """Send one message; nothing happens on a closed connection."""
        if self._transport is None or self._transport.is_closing():
            return
        last = len(frames) - 1
        self._transport.write(
            b"".join(_frame(content, _MORE if place < last else 0) for place, content in enumerate(frames))
        )

    def pause(self) -> None:
        """Read nothing for a while: the peer keeps, or drops, what it has to say."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, reason: str) -> None:
        """End it; the receiver hears of it with this reason."""
        if self._transport is not None and not self._transport.is_closing():
            self._reason = reason
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        _keep_alive(self._transport.get_extra_info("socket"))
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        """Take what came; a peer that does not keep to the protocol is left."""
        self._buffer += data
        if len(self._buffer) < self._needed:
            return
        try:
            self._parse()
        except ZmtpError as error:
            self._receiver.unreadable(str(error))
            self.close(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        """The end, whoever wanted it."""
        self._transport = None
        self._buffer.clear()
        self._frames.clear()
        self._receiver.closed(self._reason or (f"the connection broke ({error})" if error else "it hung up"))

    # -- the protocol

    def _parse(self) -> None:
        if not self._greeted:
            self._take_greeting()
        buffer, position, end = self._buffer, 0, len(self._buffer)
        while not self._closing:
            if end - position < 2:
                self._needed = 2
                break
            flags = buffer[position]
            head = 9 if flags & _LONG else 2
            if end - position < head:
                self._needed = head
                break
            size = int.from_bytes(buffer[position + 1 : position + 9], "big") if flags & _LONG else buffer[position + 1]
            if size + self._frames_bytes > LONGEST_MESSAGE:
                raise ZmtpError(f"a message has more than {LONGEST_MESSAGE} bytes")
            if end - position < head + size:
                self._needed = head + size
                break
            content = bytes(buffer[position + head : position + head + size])
            position += head + size
            self._take_frame(flags, content)
        del buffer[:position]

    @property
    def _closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _take_greeting(self) -> None:
        greeting = bytes(self._buffer[:_GREETING_BYTES])
        if greeting[0] != _SIGNATURE[0] or greeting[9] != _SIGNATURE[9] or greeting[10] < 3:
            raise ZmtpError("what listens there does not speak ZMTP 3")
        if greeting[12:32].rstrip(b"\0") != b"NULL":
            raise ZmtpError("it wants a ZeroMQ security mechanism; events come without one")
        del self._buffer[:_GREETING_BYTES]
        self._greeted = True
        assert self._transport is not None
        properties = _property(b"Socket-Type", self._socket_type.encode())
        if self._socket_type == DEALER:
            properties += _property(b"Identity", b"")
        self._transport.write(_frame(b"\x05READY" + properties, _COMMAND))

    def _take_frame(self, flags: int, content: bytes) -> None:
        if flags & _COMMAND:
            self._take_command(content)
            return
        if not self._ready:
            raise ZmtpError("it sends messages before it is ready")
        self._frames.append(content)
        self._frames_bytes += len(content)
        if not flags & _MORE:
            frames, self._frames, self._frames_bytes = self._frames, [], 0
            self._receiver.message(frames)
        elif len(self._frames) >= MOST_FRAMES:
            raise ZmtpError(f"a message has more than {MOST_FRAMES} frames")

    def _take_command(self, content: bytes) -> None:
        name = content[1 : 1 + content[0]] if content else b""
        if name == b"READY" and not self._ready:
            self._ready = True
            self._receiver.opened()
        elif name == b"PING":
            assert self._transport is not None
            self._transport.write(_frame(b"\x04PONG" + content[7:23], _COMMAND))
        elif name == b"ERROR":
            raise ZmtpError(f"it refuses: {content[7:107].decode('utf-8', 'replace')!r}")


async def connect(host: str, port: int, socket_type: str, receiver: Receiver) -> ZmtpConnection:
    """Connect and begin the handshake, of whose end the receiver hears. Raises `OSError`, also for what no host can
    be called."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(lambda: ZmtpConnection(socket_type, receiver), host, port)
    except ValueError as error:  # UnicodeError, of names that IDNA refuses, is one of these
        raise OSError(f"no host can have this name: {error}") from error
    return connection


async def connect_within(seconds: float, host: str, port: int, socket_type: str, receiver: Receiver) -> ZmtpConnection:
    """Likewise. Raises `asyncio.TimeoutError`, too.

    Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes together with the connection."""
    making = asyncio.get_running_loop().create_task(connect(host, port, socket_type, receiver))
    try:
        done, _ = await asyncio.wait({making}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
    except (asyncio.CancelledError, asyncio.TimeoutError):
        making.add_done_callback(_close_unused)
        making.cancel()
        raise
    return making.result()


def _close_unused(making: asyncio.Task[ZmtpConnection]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close("nobody waits for it any more")


def _frame(content: bytes, flags: int) -> bytes:
    size = len(content)
    if size > 255:
        return bytes((flags | _LONG,)) + size.to_bytes(8, "big") + content
    return bytes((flags, size)) + content


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def _keep_alive(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):  # Linux
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
