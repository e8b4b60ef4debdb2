"""Union engines that answer everything alike, each as soon as a test lets it, behind a worker in the test's process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from pymotor.coordinator.settings import Settings
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import MODEL, WorkerInProcess, union_at

_ANSWER = json.dumps({"id": "x", "choices": [{"text": "hi"}], "usage": {"prompt_tokens": 3}}).encode()
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)


class HoldingEngines:
    """See the module; engines have numbers."""

    def __init__(self) -> None:
        self.served: list[tuple[int, str]] = []
        """Which engine got which prompt, in that order."""
        self.gateway: WorkerInProcess
        self._held: dict[int, asyncio.Event] = {}

    def hold(self, engine: int) -> None:
        """It answers nothing more that comes."""
        self._held[engine] = asyncio.Event()

    def release(self, engine: int) -> None:
        """It answers what it kept, and what comes."""
        self._held.pop(engine).set()

    async def ask(self, text: str, session: str = "") -> int:
        """The engine that answered a prompt that nothing else had."""
        body = json.dumps({"model": MODEL, "prompt": text, "max_tokens": 1}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"
        named = b"X-Session-ID: %b\r\n" % session.encode() if session else b""
        async with StrictClient(self.gateway.port) as client:
            client.send(b"%b%bContent-Length: %d\r\n\r\n%b" % (head, named, len(body), body))
            answer = await asyncio.wait_for(client.answer(), 30)
        assert answer.status == 200, answer.body
        return self.last(text)

    def last(self, text: str) -> int:
        """The engine that got this prompt last."""
        return next(engine for engine, prompt in reversed(self.served) if prompt == text)

    def engine(self, number: int) -> ScriptedEngine:
        """The engine of this number."""

        async def script(connection: EngineConnection) -> None:
            while True:
                request = await connection.request()
                self.served.append((number, json.loads(request.partition(b"\r\n\r\n")[2])["prompt"]))
                if number in self._held:
                    await self._held[number].wait()
                await connection.say(_REPLY)

        return ScriptedEngine(script)


@asynccontextmanager
async def holding_engines(pairings: Sequence[str], settings: Settings) -> AsyncIterator[HoldingEngines]:
    """An engine for each of `pairings`; those of one name are a group."""
    found = HoldingEngines()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(found.engine(number)) for number in range(len(pairings))]
        fleet = [
            msgspec.structs.replace(union_at(f"http://127.0.0.1:{engine.port}", number), pairing=pairing)
            for number, (engine, pairing) in enumerate(zip(engines, pairings, strict=True))
        ]
        found.gateway = await stack.enter_async_context(WorkerInProcess(fleet, settings))
        yield found
