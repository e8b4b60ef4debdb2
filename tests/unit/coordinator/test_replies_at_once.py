"""Replies that come in one read: handed over at once, and the connection is as good as before."""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.http.exchange import Headers, InParts, Receiver, UpstreamError
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.http.upstream import UpstreamConnection
from pymotor.coordinator.http.upstream_pool import SharedState, UpstreamPool

REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = (b"POST / HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n\r\n",)
SECONDS = 60.0


class SlowClient(InParts):
    """Whose client takes nothing more as soon as the first bytes came."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.heard: list[str] = []
        self._connection = connection
        self.done = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        self.heard.append(f"{status} {dict(headers)[b'content-length'].decode()}")

    def on_chunk(self, wire: bytes, start: int) -> None:
        raise AssertionError((wire, start))

    def on_payload(self, payload: bytes) -> None:
        self.heard.append(payload.decode())
        self._connection.pause()

    def on_complete(self) -> None:
        self.done.set_result(None)

    def on_failed(self, error: UpstreamError) -> None:
        self.done.set_exception(error)


def send(connection: UpstreamConnection, receiver: Receiver) -> None:
    until = monotonic() + SECONDS
    connection.send(REQUEST, receiver, first_byte_by=until, idle_seconds=SECONDS, whole_by=until)


async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        writer.write(REPLY)
    writer.close()


def test_a_client_that_takes_nothing_stops_nobody_after_it() -> None:
    async def scenario() -> None:
        async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
            pool = UpstreamPool("127.0.0.1", server.sockets[0].getsockname()[1], SharedState())
            connection = await pool.connect(SECONDS)
            first = SlowClient(connection)
            send(connection, first)
            await asyncio.wait_for(first.done, SECONDS)
            assert first.heard == ["200 2", "{}"]
            assert pool.take_idle() is connection
            second = WholeReply(asyncio.get_running_loop().create_future())
            send(connection, second)
            await asyncio.wait_for(second.done, SECONDS)
            assert (second.status, second.body) == (200, b"{}")
            pool.put_back(connection)
            pool.close()

    asyncio.run(scenario())
