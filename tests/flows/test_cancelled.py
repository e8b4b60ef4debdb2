"""Clients that go away at any moment: every leg closed, every reservation released, in the gateway and the engines."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from fleet_under_test import Engines, Gateway, Role
from images import text_chat, vision_chat
from processes import wait_until
from raw_client import RawConnection, post

LANES = 48
ANSWER_SECONDS = 120.0
LEASE_SECONDS = 8.0
"""Prefill keeps what nobody fetched so long."""


def bodies() -> list[bytes]:
    """Requests of every kind; streams long enough to be left in the middle."""
    long = {"stream": True, "max_tokens": 40, "ignore_eos": True}
    texts = [post(json.dumps(text_chat(f"{n} " * 30, **long)).encode()) for n in range(4)]
    wholes = [post(json.dumps(text_chat(f"whole {n}")).encode()) for n in range(4)]
    images = [post(json.dumps(vision_chat(n, n + 1, **long)).encode()) for n in range(4)]
    several = [
        post(json.dumps({"model": "tiny", "prompt": ["a", "b"], "max_tokens": 5}).encode(), path="/v1/completions")
    ]
    return texts + wholes + images + several


class Lane:
    """One client that sends requests one after another and leaves some of them."""

    def __init__(self, port: int, chance: random.Random, wire: list[bytes]) -> None:
        self._port = port
        self._chance = chance
        self._wire = wire
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.outcomes: Counter[str] = Counter()

    async def run(self, count: int) -> None:
        """`count` requests, a third of them left."""
        try:
            for _ in range(count):
                request = self._chance.choice(self._wire)
                way = self._leave if self._chance.random() < 1 / 3 else self._stay
                # A request that hangs fails the test instead of hanging it.
                await asyncio.wait_for(way(request), ANSWER_SECONDS)
        finally:
            self._drop()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def _drop(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            if self._chance.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()
            self._streams = None

    async def _stay(self, request: bytes) -> None:
        reader, writer = await self._open()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        if b"transfer-encoding: chunked" in head:
            body = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), body[-300:]
            assert b'"error"' not in body
        else:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["choices"]
        self.outcomes["answered"] += 1

    async def _leave(self, request: bytes) -> None:
        """Go away before all is sent, after so many turns of the loop, or after so many bytes of the answer."""
        reader, writer = await self._open()
        moment = self._chance.choice(("half sent", "soon", "a little later", "in the answer"))
        writer.write(request[: self._chance.randrange(1, len(request))] if moment == "half sent" else request)
        if moment == "a little later":
            await asyncio.sleep(self._chance.random() * 0.1)
        elif moment == "in the answer":
            await reader.read(1)
            await reader.read(self._chance.randrange(1, 20_000))
        elif moment == "soon":
            await writer.drain()
        self.outcomes[moment] += 1
        self._drop()


async def crowd(port: int, total: int, seed: int) -> Counter[str]:
    """All lanes at once; what became of the requests."""
    wire = bodies()
    lanes = [Lane(port, random.Random(f"{seed} {number}"), wire) for number in range(LANES)]
    await asyncio.gather(*(lane.run(total // LANES + (number < total % LANES)) for number, lane in enumerate(lanes)))
    return sum((lane.outcomes for lane in lanes), Counter())


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers before an engine of each role whose KV leases are short."""
    roles = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1}
    directory = tmp_path_factory.mktemp("crowded")
    with (
        Engines(directory, roles, kv_lease_seconds=LEASE_SECONDS, plain=False) as engines,
        Gateway(engines, workers=2) as gateway,
    ):
        yield gateway


def check(gateway: Gateway, total: int) -> None:
    """Run the crowd, then find everything at exactly zero."""
    seed = random.randrange(2**32)
    outcomes = asyncio.run(crowd(gateway.port, total, seed))
    assert sum(outcomes.values()) == total
    assert min(outcomes[moment] for moment in ("half sent", "soon", "a little later", "in the answer")) > 0
    gateway.wait_until_idle()
    fleet = gateway.fleet()
    assert (fleet["in_flight"], fleet["load_tokens"]) == (0, 0.0), f"seed {seed}"
    assert fleet["workers_listening"] == 2
    for engine in gateway.engines:
        wait_until(lambda engine=engine: not engine.in_hand(), f"{engine.name} has nothing left (seed {seed})")


def test_the_ledger_is_zero_after_1500_requests_a_third_of_them_left(crowded: Gateway) -> None:
    check(crowded, 1500)


@pytest.mark.soak
def test_the_ledger_is_zero_after_10000_requests_a_third_of_them_left(crowded: Gateway) -> None:
    check(crowded, 10_000)


@pytest.mark.parametrize("stage", ["encode-0", "prefill-0", "decode-0"])
def test_a_client_that_leaves_while_a_stage_is_at_work_frees_it(crowded: Gateway, stage: str) -> None:
    """The stage hangs, so only the closed connection can end its leg."""
    engine = crowded.engines[stage]
    engine.fail("hang")

    with RawConnection(crowded.port) as connection:
        connection.send(post(json.dumps(vision_chat(77)).encode()))
        wait_until(lambda: crowded.loads()[f"{stage}/0"][1], f"{stage} has the request")
    crowded.wait_until_idle()
    engine.fail()
    for running in crowded.engines:
        wait_until(lambda running=running: not running.in_hand(), f"{running.name} has nothing left")
