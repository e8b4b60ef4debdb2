"""Many connections in one process: there is a bound, and whoever does nothing makes room for who asks."""

from __future__ import annotations

import asyncio
import json
import resource

import pytest
import uvloop

from pymotor.control_plane.open_files import allow_many_files
from pymotor.coordinator.http.open_connections import connections_within
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import WorkerInProcess, until

ASKED = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]}).encode()
REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize("files", [1, 64, 256, 1024, 20_000, 1_000_000])
def test_some_files_are_left_for_engines(files: int) -> None:
    assert 1 <= connections_within(files) <= max(1, files - 64)
    assert connections_within(files) >= files // 2 - 64


def test_the_limit_on_files_is_raised_as_far_as_it_may() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[0]), before[1]))
        assert allow_many_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert before[1] in (resource.RLIM_INFINITY, allow_many_files())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_at_the_bound_the_oldest_idle_connection_makes_room() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        async def script(connection: EngineConnection) -> None:
            while True:
                await connection.request()
                await go_on.wait()
                await connection.say(REPLY)

        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as gateway:
            connections = gateway.worker._connections
            connections.limit = 20
            busy, *idle = [StrictClient(gateway.port) for _ in range(20)]
            asking = []
            for client in (busy, *idle):
                await client.__aenter__()
                if client is busy:
                    asking.append(asyncio.ensure_future(busy.ask(ASKED)))
                    await until(lambda: engine.open, "the first client's request is with the engine")
            await until(lambda: len(connections) == 20, "all are open")
            for oldest in idle[:5]:
                newest = StrictClient(gateway.port)
                idle.append(await newest.__aenter__())
                asking.append(asyncio.ensure_future(newest.ask(ASKED)))
                assert await oldest.rest() == b"", "the oldest idle one was closed"
                assert len(connections) == 20
            go_on.set()
            assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 6
            for client in (busy, *idle):
                await client.__aexit__(None, None, None)
            await gateway.until_idle()

    uvloop.run(run())


def test_with_nobody_idle_the_newest_is_refused() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        async def script(connection: EngineConnection) -> None:
            await connection.request()
            await go_on.wait()
            await connection.say(REPLY)

        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as gateway:
            gateway.worker._connections.limit = 3
            clients = [StrictClient(gateway.port) for _ in range(3)]
            asking = []
            for client in clients:
                await client.__aenter__()
                asking.append(asyncio.ensure_future(client.ask(ASKED)))
            await until(lambda: len(engine.open) == 3, "all three are with the engine")
            async with StrictClient(gateway.port) as refused:
                assert await refused.rest() == b""
            go_on.set()
            assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 3
            for client in clients:
                await client.__aexit__(None, None, None)

    uvloop.run(run())
