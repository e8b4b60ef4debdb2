"""Connections to engines: whoever gives up on one is heard, in whatever moment that is."""

from __future__ import annotations

import asyncio

import pytest

from pymotor.coordinator.http.exchange import ConnectFailed
from pymotor.coordinator.http.upstream_pool import SharedState, UpstreamPool

MOMENTS = 40


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_a_client_that_leaves_while_the_connection_is_made(loop_name: str) -> None:
    """`cancel` in each turn of the loop, the one in which the connection is there among them."""

    async def scenario() -> None:
        opened: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: opened.append(writer), "127.0.0.1", 0)
        pool = UpstreamPool("127.0.0.1", server.sockets[0].getsockname()[1], SharedState())
        came_through = 0
        for turns in range(MOMENTS):
            connecting = asyncio.ensure_future(pool.connect(60.0))
            for _ in range(turns):
                await asyncio.sleep(0)
            told = connecting.cancel()
            await asyncio.wait((connecting,))
            assert connecting.cancelled() == told, f"after {turns} turns"
            if not told:
                came_through += 1
                connecting.result().transport.abort()
        assert 0 < came_through < MOMENTS
        server.close()
        for writer in opened:
            writer.close()

    if loop_name == "asyncio":
        asyncio.run(scenario())
    else:
        import uvloop

        uvloop.run(scenario())


def test_nobody_listens() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectFailed, match="no connection to"):
            await UpstreamPool("127.0.0.1", port, SharedState()).connect(60.0)

    asyncio.run(scenario())
