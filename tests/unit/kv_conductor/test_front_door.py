"""Who comes to the conductor's one port, by what is said first."""

from __future__ import annotations

import asyncio

import pytest
from played_events import Clock

from pymotor.fleet.prefix_queries import PREFACE
from pymotor.kv_conductor.front_door import TOLD_SECONDS, FrontDoor, OtherVersions


class Says(asyncio.Protocol):
    """Says which protocol it is, and what was left for it."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._name + data)
        self._transport.close()


async def said(first: bytes, others: OtherVersions, *, at_once: bool = True) -> bytes:
    """What is answered to who says this first; empty: the connection is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: FrontDoor(lambda: Says(b"http "), lambda: Says(b"frames "), others), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        try:
            for part in [first] if at_once else [first[place : place + 1] for place in range(len(first))]:
                writer.write(part)
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


async def test_the_first_bytes_decide(caplog: pytest.LogCaptureFixture) -> None:
    others = OtherVersions()
    assert await said(b"GET /", others) == b"http GET /"
    assert await said(PREFACE + b"more", others) == b"frames more"
    assert await said(b"\0nonsense", others) == b""
    assert not caplog.records


@pytest.mark.parametrize("at_once", [True, False])
async def test_another_version_is_told_of_now_and_then(caplog: pytest.LogCaptureFixture, at_once: bool) -> None:
    clock = Clock()
    others = OtherVersions(clock)
    newer = PREFACE.replace(b"\x01", b"\x02")
    for _ in range(3):
        assert await said(newer, others, at_once=at_once) == b""
    clock.now += TOLD_SECONDS
    assert await said(newer, others, at_once=at_once) == b""
    first, second = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "127.0.0.1" in first
    assert "version 02, and here version 01" in first
    assert ("(1 connection" in first, "(3 connection" in second) == (True, True)
