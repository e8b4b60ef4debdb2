"""Encode, prefill, decode and union servers played by a test in its own event loop: each keeps what it was sent, and
the test decides what it answers and when.

For what is on the wire between stages, and for who waits for whom; what engines make of it is a matter for the
simulated engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from pymotor.coordinator.settings import Settings
from pymotor.fleet import (
    ECDialect,
    ECTransfer,
    Endpoint,
    EndpointState,
    Instance,
    InstanceState,
    KVDialect,
    KVTransfer,
    Role,
)
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import MODEL, WorkerInProcess, until

Body = dict[str, Any]
Reply = tuple[int, object]
_CONNECTORS = {
    ECDialect.STORE: "ECExampleConnector",
    ECDialect.PULL: "ECCPUConnector",
    ECDialect.PUSH: "ECMooncakeConnector",
}


def encoding_of(body: Body) -> Body:
    """What vLLM's encoders say of the one item in a request's body, with members that nobody here knows."""
    part = body["messages"][0]["content"][0]
    url = part[part["type"]]["url"]
    said: Body = {
        "item_indices": [0],
        "metadata": {"image_grid_thw": [1, 6, 6]},
        "peer_host": "10.0.0.1",
        "peer_port": 5601,
        "size_bytes": 4096,
        "shape": [36, 64],
        "unheard_of": {"a": [1, None, 2.50]},
    }
    return {f"hash of {url[-24:]}": said}


def completion(text: str = "answer", **fields: object) -> Body:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage, **fields}


class Stage:
    """One engine server."""

    def __init__(self, role: Role, number: int, dialect: ECDialect) -> None:
        self.role = role
        self.name = f"{role.value}-{number}"
        self.bodies: list[Body] = []
        """What it was sent, in order."""
        self.closed = 0
        """Requests that the gateway gave up."""
        self.held: asyncio.Event = asyncio.Event()
        """Whether it answers; see `hold`."""
        self.held.set()
        self.replies: list[Reply | None] = []
        """What it says next, before it answers as an engine does; None: it resets the connection."""
        self._dialect = dialect
        self.server = ScriptedEngine(self._serve)

    def hold(self) -> None:
        """Say nothing until `held` is set."""
        self.held.clear()

    async def _serve(self, connection: EngineConnection) -> None:
        while True:
            request = await connection.request()
            body: Body = json.loads(request.partition(b"\r\n\r\n")[2])
            self.bodies.append(body)
            if not self.held.is_set() and not await self._released(connection):
                self.closed += 1
                return
            reply = self.replies.pop(0) if self.replies else (200, self._usual(body))
            if reply is None:
                # Without a byte of an answer it would be an idle connection that was closed.
                await connection.say(b"HTTP/1.1 ")
                connection.reset()
                return
            status, said = reply
            content = json.dumps(said).encode()
            head = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await connection.say(head % (status, len(content)) + content)
            if status >= 500:
                return

    async def _released(self, connection: EngineConnection) -> bool:
        """Whether the answer is wanted still when it may be given."""
        loop = asyncio.get_running_loop()
        gone, held = loop.create_task(connection.gone()), loop.create_task(self.held.wait())
        try:
            await asyncio.wait({gone, held}, return_when=asyncio.FIRST_COMPLETED)
            return not gone.done()
        finally:
            gone.cancel()
            held.cancel()
            await asyncio.gather(gone, held, return_exceptions=True)

    def _usual(self, body: Body) -> Body:
        if self.role is Role.ENCODE:
            return completion("", ec_transfer_params=encoding_of(body))
        if self.role is Role.PREFILL and "kv_transfer_params" in body:
            return completion("", kv_transfer_params={"remote_block_ids": [[1]], "remote_engine_id": self.name})
        return completion(f"answer of {self.name}")

    @property
    def address(self) -> str:
        """Where embeddings for it are announced, if they are pushed."""
        return f"tcp://127.0.0.1:{self.server.port}"

    def instance(self) -> Instance:
        """What a gateway is told of it."""
        pull = KVTransfer(
            connector="NixlConnector",
            dialect=KVDialect.PULL,
            produces=self.role is Role.PREFILL,
            consumes=self.role is Role.DECODE,
            handoff_seconds=30.0,
        )
        embeddings = ECTransfer(
            connector=_CONNECTORS[self._dialect],
            dialect=self._dialect,
            produces=self.role is Role.ENCODE,
            consumes=self.role is not Role.ENCODE,
            store="/store" if self._dialect is ECDialect.STORE else None,
            address=self.address if self._dialect is ECDialect.PUSH and self.role is not Role.ENCODE else "",
        )
        url = f"http://127.0.0.1:{self.server.port}"
        return Instance(
            name=self.name,
            role=self.role,
            models=(MODEL,),
            engine="sim",
            state=InstanceState.ACTIVE,
            endpoints=(Endpoint(id=f"{self.name}/0", url=url, state=EndpointState.READY),),
            kv=pull if self.role in (Role.PREFILL, Role.DECODE) else None,
            ec=embeddings if self.role is not Role.DECODE else None,
            pairing=MODEL,
        )


class PlayedFleet:
    """A worker before stages of the test's own. Use as an asynchronous context manager."""

    def __init__(self, dialect: ECDialect, roles: Mapping[Role, int], **settings: object) -> None:
        """`settings` are those of the worker that differ from the default."""
        self.stages = {
            stage.name: stage
            for role, count in roles.items()
            for stage in (Stage(role, number, dialect) for number in range(count))
        }
        values: dict[str, Any] = {"retry_delay": 0.0, "server_timing": True, **settings}
        self.worker = WorkerInProcess([stage.instance() for stage in self.stages.values()], Settings(**values))
        self._opened = AsyncExitStack()

    def __getitem__(self, name: str) -> Stage:
        return self.stages[name]

    async def __aenter__(self) -> PlayedFleet:
        async with AsyncExitStack() as opened:
            for stage in self.stages.values():
                await opened.enter_async_context(stage.server)
            await opened.enter_async_context(self.worker)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.worker.until_idle()
                encodings = self.worker.worker._services.encodings
                assert not encodings.held[0], "an item is under way that nobody waits for"
        finally:
            await self._opened.aclose()

    async def ask(self, body: Body, path: str = "/v1/chat/completions") -> tuple[int, Body]:
        """Status and body of the answer to one request on a connection of its own."""
        async with StrictClient(self.worker.port) as client:
            content = json.dumps(body).encode()
            head = b"POST %b HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            client.send(head % (path.encode(), len(content)) + content)
            answer = await client.answer()
        return answer.status, json.loads(answer.body)

    def sent(self, role: Role) -> list[tuple[str, Body]]:
        """What went to the stages of a role: name and body, by stage."""
        return [(stage.name, body) for stage in self.stages.values() if stage.role is role for body in stage.bodies]

    def outcomes(self) -> dict[str, int]:
        """`pymotor_media_items_total` by outcome."""
        counter = self.worker.worker.instruments.media_items
        names = ("encoded", "shared", "joined", "reused", "inline")
        return {name: int(counter.child(name).value) for name in names if counter.child(name).value}

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition()` is true. Raises `AssertionError`."""
        await until(condition, what)


def chat(*urls: str, **fields: object) -> Body:
    """A chat with these images before a text."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": [*images, {"type": "text", "text": "What is it?"}]}],
        "max_tokens": 5,
        **fields,
    }


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it in a loop like a worker's."""
    import uvloop

    uvloop.run(scenario())  # type: ignore[arg-type]
