"""A worker that ends, and one that closes what is idle: byte by byte, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pymotor.coordinator import worker
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import WorkerInProcess, until

ASKED = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(ASKED), ASKED)
)
LARGE = b'{"x":"%b"}' % (b"y" * 24 * 1024 * 1024)
SMALL = b'{"x":"y"}'
Scenario = Callable[[WorkerInProcess], Coroutine[Any, Any, None]]


def served(body: bytes, scenario: Scenario) -> None:
    """Run `scenario` with a worker before an engine that answers `body` to everything."""

    async def script(connection: EngineConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await connection.request()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            await loop.sock_sendall(connection._socket, head + body)

    async def run() -> None:
        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as gateway:
            await scenario(gateway)

    uvloop.run(run())


async def received(client: socket.socket) -> bytes:
    """All that comes until the end. Raises `ConnectionResetError`."""
    pieces = []
    while piece := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1 << 20), 20):
        pieces.append(piece)
    return b"".join(pieces)


def test_an_answer_that_is_taken_slowly_is_whole() -> None:
    """Its client takes nothing of it until idle connections are closed."""

    async def scenario(gateway: WorkerInProcess) -> None:
        with socket.socket() as slow, socket.create_connection(("127.0.0.1", gateway.port)) as unused:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", gateway.port))
            slow.sendall(REQUEST)
            slow.setblocking(False)
            unused.setblocking(False)
            await until(lambda: any(client.unsent for client in gateway.worker._connections), "it is answered")
            await gateway.until_idle()
            draining = asyncio.create_task(gateway.worker.drain(60.0))
            assert await received(unused) == b""
            answer = await received(slow)
            assert answer.endswith(b"\r\n\r\n" + LARGE)
            slow.close()
            await draining

    served(LARGE, scenario)


def test_all_who_wait_are_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the loop accepts one in a turn, and one of them has gone again."""
    monkeypatch.setattr(worker, "_CONNECTING_SECONDS", 0.0)

    async def scenario(gateway: WorkerInProcess) -> None:
        with contextlib.ExitStack() as opened:
            address = "127.0.0.1", gateway.port
            clients = [opened.enter_context(socket.create_connection(address)) for _ in range(12)]
            for client in clients:
                client.sendall(REQUEST)
                client.setblocking(False)
            gone = clients.pop(6)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            draining = asyncio.create_task(gateway.worker.drain(60.0))
            answers = await asyncio.gather(*map(received, clients))
            assert all(answer.endswith(b"\r\n\r\n" + SMALL) for answer in answers)
        await draining

    served(SMALL, scenario)


def test_nobody_is_waited_for_when_nobody_is_there() -> None:
    async def scenario(gateway: WorkerInProcess) -> None:
        async with StrictClient(gateway.port) as client:
            assert (await client.ask(ASKED)).status == 200
        await until(lambda: not len(gateway.worker._connections), "it is closed")
        await gateway.worker.drain(float("inf"))

    served(SMALL, scenario)


def test_a_request_that_comes_as_its_connection_is_to_be_closed_is_answered() -> None:
    """It is in the kernel and was not read when the time of an idle connection is over."""

    async def scenario(gateway: WorkerInProcess) -> None:
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            await until(lambda: len(gateway.worker._connections), "it is open")
            (connection,) = gateway.worker._connections
            client.sendall(REQUEST)
            connection.check_deadline(connection.deadline)
            client.setblocking(False)
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65536), 20)
            assert answer.endswith(b"\r\n\r\n" + SMALL)
            await until(lambda: connection.quiet, "it is idle again")
            connection.check_deadline(connection.deadline)
            assert await received(client) == b""

    served(SMALL, scenario)
