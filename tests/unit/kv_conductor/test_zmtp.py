"""A connection to ZeroMQ sockets: against libzmq, and against bytes that come in any pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
import zmq
import zmq.asyncio
from hypothesis import given
from hypothesis import strategies as st

from pymotor.kv_conductor.zmtp import (
    DEALER,
    LONGEST_MESSAGE,
    MOST_FRAMES,
    SUBSCRIBER,
    ZmtpConnection,
    connect,
    connect_within,
)

SECONDS = 60.0
NO_NAMES = ["a..b", "a" * 64 + ".b", "\u00e9" * 80, "nul\0"]
"""Which IDNA or the resolver refuses without asking anybody."""
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB"


class Heard:
    """What a connection tells."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_closed = asyncio.Event()
        self.messages: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.reason = ""

    def opened(self) -> None:
        self.is_open.set()

    def message(self, frames: list[bytes]) -> None:
        self.messages.put_nowait(frames)

    def unreadable(self, why: str) -> None:
        self.reason = why

    def closed(self, reason: str) -> None:
        assert not self.is_closed.is_set()
        self.reason = reason
        self.is_closed.set()

    async def next(self) -> list[bytes]:
        return await asyncio.wait_for(self.messages.get(), SECONDS)


async def test_a_subscriber_of_libzmq_gets_its_topic() -> None:
    heard = Heard()
    with zmq.asyncio.Context() as context, context.socket(zmq.XPUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        connection = await connect("127.0.0.1", port, SUBSCRIBER, heard)
        await asyncio.wait_for(heard.is_open.wait(), SECONDS)
        connection.subscribe(b"kv")
        assert await asyncio.wait_for(publisher.recv(), SECONDS) == b"\x01kv"
        long = bytes(300_000)
        for frames in ([b"other", b"x"], [b"kv-events", bytes(8), long], [b"kv", b"", b"y" * 255], [b"kv", b"z" * 256]):
            await publisher.send_multipart(frames)
        assert await heard.next() == [b"kv-events", bytes(8), long]
        assert await heard.next() == [b"kv", b"", b"y" * 255]
        assert await heard.next() == [b"kv", b"z" * 256]
        publisher.close(0)
        await asyncio.wait_for(heard.is_closed.wait(), SECONDS)


async def test_a_dealer_asks_a_router_of_libzmq() -> None:
    heard = Heard()
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        connection = await connect("127.0.0.1", port, DEALER, heard)
        await asyncio.wait_for(heard.is_open.wait(), SECONDS)
        connection.send([b"", b"question" * 100])
        who, *question = await asyncio.wait_for(router.recv_multipart(), SECONDS)
        assert question == [b"", b"question" * 100]
        await router.send_multipart([who, b"", b"answer"])
        assert await heard.next() == [b"", b"answer"]
        connection.close("enough")
        await asyncio.wait_for(heard.is_closed.wait(), SECONDS)
        assert heard.reason == "enough"


async def test_a_peer_that_beats_is_answered() -> None:
    heard = Heard()
    with zmq.asyncio.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.HEARTBEAT_IVL, 20)
        publisher.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        connection = await connect("127.0.0.1", port, SUBSCRIBER, heard)
        await asyncio.wait_for(heard.is_open.wait(), SECONDS)
        connection.subscribe(b"")
        await asyncio.wait_for(publisher.recv(), SECONDS)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(heard.is_closed.wait(), 2.0)
        await publisher.send_multipart([b"still", b"here"])
        assert await heard.next() == [b"still", b"here"]
        connection.close("enough")


class _Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _Options()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class _Options:
    def setsockopt(self, *_: object) -> None:
        """No socket."""


class _Kept:
    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []

    def opened(self) -> None:
        """Not of interest."""

    def message(self, frames: list[bytes]) -> None:
        self.messages.append(frames)

    def unreadable(self, why: str) -> None:
        """The transport is aborted."""

    def closed(self, reason: str) -> None:
        """Not of interest."""


def received(stream: bytes, pieces: list[int]) -> tuple[list[list[bytes]], bool]:
    """The messages of a stream that comes in such pieces, and whether the connection was given up."""
    kept, transport = _Kept(), _Transport()
    connection = ZmtpConnection(SUBSCRIBER, kept)
    connection.connection_made(transport)
    position = 0
    for size in [*pieces, len(stream)]:
        if position < len(stream) and not transport.aborted:
            connection.data_received(stream[position : position + size])
            position += size
    return kept.messages, transport.aborted


def framed(frames: list[bytes]) -> bytes:
    written = b""
    for place, content in enumerate(frames):
        more = place < len(frames) - 1
        if len(content) > 255:
            written += bytes([2 | more]) + len(content).to_bytes(8, "big") + content
        else:
            written += bytes([more, len(content)]) + content
    return written


@given(
    st.lists(st.lists(st.binary(max_size=400), min_size=1, max_size=MOST_FRAMES - 1), max_size=6),
    st.lists(st.integers(1, 300), max_size=60),
)
def test_messages_are_the_same_in_whatever_pieces_they_come(messages: list[list[bytes]], pieces: list[int]) -> None:
    stream = GREETING + READY + b"".join(framed(frames) for frames in messages)
    assert received(stream, pieces) == (messages, False)


@given(st.binary(min_size=64, max_size=300), st.lists(st.integers(1, 64), max_size=20))
def test_bytes_that_are_no_zmtp_raise_nothing(stream: bytes, pieces: list[int]) -> None:
    received(stream, pieces)
    received(GREETING + stream, pieces)
    received(GREETING + READY + stream, pieces)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 400 Bad Request\r\n".ljust(64),
        GREETING[:10] + b"\x01" + GREETING[11:],
        GREETING.replace(b"NULL", b"PLAIN")[:64],
        GREETING + framed([b"too", b"early"]),
        GREETING + READY + b"\x02" + (LONGEST_MESSAGE + 1).to_bytes(8, "big"),
        GREETING + READY + b"\x01\x00" * MOST_FRAMES,
        GREETING + READY + b"\x04\x08\x05ERROR\x01x",
    ],
)
def test_a_peer_that_breaks_the_protocol_is_left(stream: bytes) -> None:
    assert received(stream, [])[1]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("host", NO_NAMES)
def test_a_name_that_no_host_can_have_is_one_that_cannot_be_reached(run: Callable[..., None], host: str) -> None:
    async def fails() -> None:
        with pytest.raises(OSError):
            await connect_within(SECONDS, host, 5557, SUBSCRIBER, Heard())

    run(fails())
