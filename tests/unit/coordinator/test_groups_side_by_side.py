"""Endpoints of two versions that cannot hand over to each other: which of the groups gets a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import uvloop

from pymotor.coordinator.affinity.settings import AffinitySettings
from pymotor.coordinator.settings import RequestLimits, Settings
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import MODEL, WorkerInProcess, union_at, until

ANSWER = json.dumps({"id": "x", "choices": [{"text": "hi"}], "usage": {"prompt_tokens": 3}}).encode()
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
SESSIONS = [f"session {number}" for number in range(12)]
FEW_TOKENS = 30
"""In tenths of a token, as the ledger counts: too little to move what has a key."""


class Versions:
    """Union engines of an old and a new version behind one worker; the old ones come first."""

    def __init__(self, gateway: WorkerInProcess, served: list[int], held: set[int], released: asyncio.Event) -> None:
        self.gateway = gateway
        self.served = served
        """Which engine got each request."""
        self.held = held
        """Engines that do not answer until `released`."""
        self.released = released

    async def ask(self, text: str, session: str = "") -> int:
        """The engine that answered."""
        body = json.dumps({"model": MODEL, "prompt": text, "max_tokens": 1}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"
        named = b"X-Session-ID: %b\r\n" % session.encode() if session else b""
        async with StrictClient(self.gateway.port) as client:
            client.send(b"%b%bContent-Length: %d\r\n\r\n%b" % (head, named, len(body), body))
            answer = await asyncio.wait_for(client.answer(), 30)
        assert answer.status == 200, answer.body
        return self.served[-1]

    def load(self, engine: int, tenths: int) -> None:
        """Others have so much there."""
        self.gateway._ledger.begin(engine, tenths)


@asynccontextmanager
async def versions(each: int, scheduler_type: str, limits: RequestLimits | None = None) -> AsyncIterator[Versions]:
    """As many engines of each of the two."""
    served: list[int] = []
    held: set[int] = set()
    released = asyncio.Event()

    def script_of(number: int) -> ScriptedEngine:
        async def script(connection: EngineConnection) -> None:
            while True:
                await connection.request()
                served.append(number)
                if number in held:
                    await released.wait()
                await connection.say(REPLY)

        return ScriptedEngine(script)

    settings = Settings(
        max_retry=0,
        retry_delay=0.0,
        scheduler_type=scheduler_type,
        affinity=AffinitySettings(),
        limits=limits or RequestLimits(),
    )
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(script_of(number)) for number in range(2 * each)]
        fleet = [
            msgspec.structs.replace(
                union_at(f"http://127.0.0.1:{engine.port}", number), pairing="old" if number < each else "new"
            )
            for number, engine in enumerate(engines)
        ]
        gateway = await stack.enter_async_context(WorkerInProcess(fleet, settings))
        yield Versions(gateway, served, held, released)


@pytest.mark.parametrize("scheduler_type", ["session_affinity", "prefix_hash"])
def test_what_belongs_together_stays_together(scheduler_type: str) -> None:
    async def scenario() -> None:
        async with versions(2, scheduler_type) as two:
            texts = {session: f"{session} begins so " * 400 for session in SESSIONS}
            two.gateway.tell_fleet(two.gateway.instances[:2])
            before = {session: await two.ask(text, session) for session, text in texts.items()}
            two.gateway.tell_fleet(two.gateway.instances)
            after = {session: await two.ask(text, session) for session, text in texts.items()}
            for engine in range(4):
                two.load(engine, FEW_TOKENS)
                for session, text in texts.items():
                    assert await two.ask(f"{text} turn {engine}", session) == after[session]
                two.load(engine, -FEW_TOKENS)
            moved = [session for session in SESSIONS if after[session] != before[session]]
            assert 0 < len(moved) < len(SESSIONS)
            assert all(after[session] >= 2 for session in moved), "only what has to move moves"

    uvloop.run(scenario())


@pytest.mark.parametrize("scheduler_type", ["session_affinity", "kv_cache_affinity"])
def test_nobody_waits_for_a_full_group_while_the_other_has_room(scheduler_type: str) -> None:
    async def scenario() -> None:
        async with versions(1, scheduler_type, RequestLimits(union=1)) as two:
            text = "one beginning " * 400
            own = await two.ask(text, "one")
            assert await two.ask(text, "one") == own
            two.held.add(own)
            holding = asyncio.create_task(two.ask(text, "one"))
            await until(lambda: len(two.served) == 3, "its engine is full")
            assert await two.ask(text, "one") == 1 - own
            two.released.set()
            await holding
            two.held.clear()
            assert await two.ask(text, "one") == own or scheduler_type == "kv_cache_affinity"

    uvloop.run(scenario())
