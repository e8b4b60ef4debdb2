"""An engine server of which a test decides every byte and when it is read, and a client that takes answers apart."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

Script = Callable[["EngineConnection"], Coroutine[Any, Any, None]]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}\r\n")


class EngineConnection:
    """One connection that a gateway opened to a `ScriptedEngine`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""
        self.requests = 0

    async def request(self) -> bytes:
        """The next whole request. Raises `EOFError` when the gateway closes or resets instead."""
        while (end := self._received.find(b"\r\n\r\n") + 4) < 4:
            await self._more()
        length = _LENGTH.search(self._received[:end])
        whole = end + int(length[1]) if length else end
        while len(self._received) < whole:
            await self._more()
        found, self._received = self._received[:whole], self._received[whole:]
        self.requests += 1
        return found

    async def say(self, *pieces: bytes) -> None:
        """Send each piece so that the gateway reads it by itself."""
        for piece in pieces:
            self._socket.sendall(piece)
            # The gateway reads in this same loop: two turns see the bytes arrive and what they set off.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until the gateway closes the connection, whatever it sends before."""
        try:
            while True:
                await self._more()
        except EOFError:
            return

    def reset(self) -> None:
        """Break the connection off with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def _more(self) -> None:
        try:
            received = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        except ConnectionResetError:
            received = b""
        if not received:
            raise EOFError("the gateway closed the connection")
        self._received += received


class ScriptedEngine:
    """Runs `script` for each connection, then closes it. Use as an asynchronous context manager."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.open: set[EngineConnection] = set()
        """Connections whose script still runs."""
        self.accepted = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedEngine:
        self._spawn(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def _accept(self) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self.accepted += 1
            self._spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        served = EngineConnection(connection)
        self.open.add(served)
        try:
            await self.script(served)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.open.discard(served)
            connection.close()


class Answer:
    """A response as a client got it."""

    def __init__(self, status: int, headers: dict[bytes, bytes], body: bytes, whole: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.whole = whole
        """Whether it ended as its framing says, and not with the connection."""


class StrictClient:
    """One client connection that takes no framing but the exact one. Use as an asynchronous context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> StrictClient:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()

    def send(self, data: bytes) -> None:
        """Send bytes as they are; dropped when the gateway has closed."""
        if not self._writer.transport.is_closing():
            self._writer.write(data)

    def finish(self) -> None:
        """Say that there will be no more."""
        if not self._writer.transport.is_closing():
            self._writer.write_eof()

    async def ask(self, body: bytes, version: bytes = b"1.1") -> Answer:
        """POST a chat and take the answer apart."""
        head = b"POST /v1/chat/completions HTTP/%b\r\nHost: g\r\nContent-Type: application/json\r\n" % version
        self.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return await self.answer()

    async def answer(self) -> Answer:
        """The next response. Raises `asyncio.IncompleteReadError` when the connection ends before its head."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 60)
        lines = head[:-4].split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        status = int(lines[0].split(b" ")[1])
        try:
            body = await asyncio.wait_for(self._body(headers), 60)
        except asyncio.IncompleteReadError as error:
            return Answer(status, headers, error.partial, False)
        return Answer(status, headers, body, True)

    async def rest(self) -> bytes:
        """All that comes until the gateway closes."""
        try:
            return await asyncio.wait_for(self._reader.read(), 60)
        except ConnectionResetError:
            return b""

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        if b"Content-Length" in headers:
            return await self._reader.readexactly(int(headers[b"Content-Length"]))
        if headers.get(b"Transfer-Encoding") != b"chunked":
            return await self._reader.read()
        body = b""
        while True:
            line = await self._reader.readuntil(b"\r\n")
            assert _CHUNK_SIZE.fullmatch(line), f"no chunk size: {line!r}"
            chunk = await self._reader.readexactly(int(line, 16) + 2)
            assert chunk.endswith(b"\r\n")
            if chunk == b"\r\n":
                return body
            body += chunk[:-2]
