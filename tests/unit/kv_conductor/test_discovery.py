"""Asking engines where they publish: those that do not answer keep no others waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pymotor.fleet import Endpoint, EndpointState, Instance, InstanceState, Role
from pymotor.kv_conductor import discovery as discovery_module
from pymotor.kv_conductor.asking_turns import AskingTurns
from pymotor.kv_conductor.discovery import AskedEngine, Discovery
from pymotor.kv_conductor.sources import SourceError

SECONDS = 60.0
AT_A_TIME = 32
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with headers that never end, a byte now and then."""
    with contextlib.suppress(ConnectionError):
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)
    writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that nothing is published."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    writer.close()


@contextlib.asynccontextmanager
async def asked(discovery: Discovery, serve: Serve) -> AsyncIterator[Callable[[], AskedEngine]]:
    """Engines at one server of this kind."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(id="union-0/0", url=f"http://127.0.0.1:{port}", state=EndpointState.READY)
    instance = Instance(
        name="union-0",
        role=Role.UNION,
        engine="vllm",
        state=InstanceState.ACTIVE,
        models=("a-model",),
        endpoints=(endpoint,),
    )
    yield lambda: discovery.engine(instance, endpoint)
    server.close()


async def finds_nothing(engine: AskedEngine, ended: list[str]) -> None:
    with pytest.raises(SourceError, match="within"):
        await engine.sources()
    ended.append("dripping")


async def asks_among_dripping() -> list[str]:
    """The order in which askings ended after one that did not answer was asked before."""
    discovery = Discovery(None)
    ended: list[str] = []
    async with asked(discovery, drip) as dripping, asked(discovery, answer) as answering:
        engines = [dripping() for _ in range(2 * AT_A_TIME)]
        # None of them has been asked yet, so the one that answers waits for their turns to end.
        first = [asyncio.create_task(finds_nothing(engine, [])) for engine in engines[:AT_A_TIME]]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(answering().sources(), SECONDS) == ()
        await asyncio.gather(*first, *(finds_nothing(engine, []) for engine in engines[AT_A_TIME:]))
        # All of them failed by now: those that have no place yet wait behind it.
        again = [asyncio.create_task(finds_nothing(engine, ended)) for engine in engines]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(answering().sources(), SECONDS) == ()
        ended.append("answering")
        await asyncio.gather(*again)
    await discovery.close()
    return ended


def test_engines_that_drip_their_headers_keep_others_waiting_for_one_turn_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery_module, "ANSWER_SECONDS", 1.0)
    ended = asyncio.run(asks_among_dripping())
    assert ended.index("answering") <= AT_A_TIME
    assert len(ended) == 2 * AT_A_TIME + 1


async def takes_turns() -> list[str]:
    turns = AskingTurns(1)
    order: list[str] = []

    async def ask(name: str, *, behind: bool) -> None:
        async with turns.turn(behind=behind):
            order.append(name)

    async with turns.turn(behind=True):
        failed = asyncio.create_task(ask("failed", behind=True))
        impatient = asyncio.create_task(ask("impatient", behind=False))
        new = asyncio.create_task(ask("new", behind=False))
        later = asyncio.create_task(ask("later", behind=False))
        await asyncio.sleep(0)
        impatient.cancel()
    # Its place came together with the end of its patience.
    new.cancel()
    await asyncio.gather(failed, later)
    await ask("last", behind=True)
    return order


def test_who_failed_before_has_its_turn_behind_others_and_no_place_is_lost() -> None:
    assert asyncio.run(takes_turns()) == ["later", "failed", "last"]
