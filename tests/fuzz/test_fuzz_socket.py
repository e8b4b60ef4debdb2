"""Generated requests through real sockets into a whole worker: each connection is answered or closed, nothing is logged
as a failure, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import random

import pytest
import uvloop
from request_bytes import cuts, request_bytes

from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import WorkerInProcess

_LANES = 16
_GOOD = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]}).encode()
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


async def _engine(connection: EngineConnection) -> None:
    while True:
        await connection.request()
        await connection.say(_REPLY)


async def _one(port: int, seed: int) -> bytes:
    """Send one input, then say that there is no more; all that comes back."""
    chance = random.Random(seed)
    async with StrictClient(port) as client:
        try:
            for piece in cuts(chance, request_bytes(chance)):
                client.send(piece)
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            if chance.random() < 0.1:
                return b""
            client.finish()
            return await client.rest()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("inputs", [1500, pytest.param(50_000, marks=pytest.mark.soak)])
def test_every_connection_is_answered_or_closed(inputs: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    statuses: set[bytes] = set()

    async def lane(port: int, first: int) -> None:
        for seed in range(first, inputs, _LANES):
            received = await _one(port, seed)
            assert not received or received.startswith(b"HTTP/1.1 "), f"seed {seed}: {received[:200]!r}"
            statuses.add(received[9:12])

    async def run() -> None:
        async with ScriptedEngine(_engine) as engine, WorkerInProcess([engine.port]) as gateway:
            await asyncio.gather(*(lane(gateway.port, first) for first in range(_LANES)))
            await gateway.until_idle()
            async with StrictClient(gateway.port) as client:
                assert (await client.ask(_GOOD)).status == 200

    uvloop.run(run())
    assert not [record.getMessage() for record in caplog.records]
    assert {b"400", b"404", b"501"} <= statuses
