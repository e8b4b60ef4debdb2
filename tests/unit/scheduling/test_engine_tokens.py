"""Tokens asked of engines: one that fails is left alone by itself, and another is asked in its stead."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from array import array
from collections.abc import AsyncIterator, Iterator

import pytest
from ledgers import shared_ledgers

from pymotor.coordinator.affinity.engine_tokens import EngineTokens
from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.prompts.prompt import Prompt
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Target
from pymotor.fleet import Endpoint, Instance, Role


class Engine:
    """Answers every request in the same way, and counts them."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.body = b""
        self.tokens = [1, 2, 3]
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        self.body = await reader.readexactly(int(length.split(b":")[1]))
        self.asked += 1
        body = json.dumps({"tokens": self.tokens} if self.status == 200 else {"error": "no"}).encode()
        writer.write(
            b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (self.status, len(body)) + body
        )
        await writer.drain()
        writer.close()


@pytest.fixture
def book() -> Iterator[Ledger]:
    with shared_ledgers(1, 4) as (ledger, _):
        yield ledger


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """One that is taken and not listened at: connections to it are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def target(book: Ledger, row: int, port: int) -> Target:
    """The endpoint in this row."""
    owner = Instance(name=f"union-{row}", role=Role.UNION, models=("tiny",), engine="sim")
    endpoint = Endpoint(id=f"union-{row}/0", url=f"http://127.0.0.1:{port}")
    return Target(endpoint, owner, book, row, 1, SharedState())


def a_view(**more: object) -> RequestView:
    """A chat."""
    surface = SURFACES[b"/v1/chat/completions"]
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **more})
    return surface.read(surface, body.encode(), False)


def a_completion(prompt: object, **more: object) -> RequestView:
    """With this prompt."""
    surface = SURFACES[b"/v1/completions"]
    return surface.read(surface, json.dumps({"model": "tiny", "prompt": prompt, **more}).encode(), False)


async def read(tokens: EngineTokens, *targets: Target) -> Prompt | None:
    """The chat's prompt."""
    return await tokens.read(a_view(), targets)


async def test_the_other_is_asked_at_once_where_one_is_dead(
    book: Ledger, engine: Engine, dead_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = EngineTokens(asyncio.get_running_loop(), 30.0)
    caplog.set_level(logging.INFO)
    dead, live = target(book, 0, dead_port), target(book, 1, engine.port)
    for count in range(1, 5):
        # Equally loaded, the dead one stands first.
        found = await read(tokens, dead, live)
        assert found is not None
        assert found.length == 3
        assert engine.asked == count
    told = [record.getMessage() for record in caplog.records if "union-" in record.getMessage()]
    assert len(told) == 1
    assert "union-0/0" in told[0]
    assert "cannot be reached" in told[0]


async def test_no_more_than_two_are_asked(book: Ledger, engine: Engine) -> None:
    engine.status = 404
    tokens = EngineTokens(asyncio.get_running_loop(), 30.0)
    others = [Engine(), Engine()]
    for one in others:
        one.status = 404
        await one.start()
    everyone = [target(book, row, one.port) for row, one in enumerate((engine, *others))]
    try:
        assert await read(tokens, *everyone) is None
        assert [engine.asked, *(one.asked for one in others)] == [1, 1, 0]
        # Those two do not offer it: from here on only the third is a question.
        assert await read(tokens, *everyone) is None
        assert await read(tokens, *everyone) is None
        assert [engine.asked, *(one.asked for one in others)] == [1, 1, 1]
    finally:
        for one in others:
            await one.stop()


async def test_who_could_not_be_reached_is_asked_again_soon(book: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tokens = EngineTokens(asyncio.get_running_loop(), 30.0)
    engine = Engine()
    await engine.start()
    await engine.stop()
    alone = target(book, 0, engine.port)
    assert await read(tokens, alone) is None
    await engine.start()

    async def answered() -> None:
        while await read(tokens, alone) is None:  # noqa: ASYNC110  nobody tells when the pause is over
            await asyncio.sleep(0.05)

    try:
        await asyncio.wait_for(answered(), 60)
    finally:
        await engine.stop()
    assert any("asked for tokens again" in record.getMessage() for record in caplog.records)


async def test_what_is_wrong_with_a_request_silences_nobody(book: Ledger, engine: Engine) -> None:
    tokens = EngineTokens(asyncio.get_running_loop(), 30.0)
    alone = target(book, 0, engine.port)
    engine.status = 400
    assert await read(tokens, alone) is None
    engine.status = 200
    assert await read(tokens, alone) is not None


@pytest.mark.parametrize(("count", "in_a_thread"), [(1000, False), (100_000, True)])
async def test_many_token_ids_do_not_hold_up_the_event_loop(count: int, in_a_thread: bool) -> None:
    loop = asyncio.get_running_loop()
    tokens = EngineTokens(loop, 30.0)
    for prompt in ([7] * count, [[7] * count]):
        others: list[str] = []
        loop.call_soon(others.append, "had their turn")
        found = await tokens.read(a_completion(prompt), ())
        assert found is not None
        assert found.length == count
        assert bool(others) == in_a_thread


async def test_many_tokens_of_an_engine_are_read(book: Ledger, engine: Engine) -> None:
    engine.tokens = list(range(100_000))
    found = await read(EngineTokens(asyncio.get_running_loop(), 30.0), target(book, 0, engine.port))
    assert found is not None
    assert found.length == 100_000


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (a_view(), [1, 2, 3]),
        (a_view(truncate_prompt_tokens=2), [2, 3]),
        (a_view(truncate_prompt_tokens=3), [1, 2, 3]),
        (a_view(truncate_prompt_tokens=None), [1, 2, 3]),
        (a_view(truncate_prompt_tokens=2, truncation_side="right"), None),
        (a_view(truncate_prompt_tokens=-1), None),
        (a_view(truncate_prompt_tokens=2, add_special_tokens=True), None),
        (a_view(reasoning_effort="high"), None),
        (a_view(documents=[{"title": "a"}]), None),
        (a_view(reasoning_effort=None, documents=None, chat_template=None), [1, 2, 3]),
        (a_completion("hello", truncate_prompt_tokens=2), None),
        (a_completion("hello", truncate_prompt_tokens=2, add_special_tokens=False), [2, 3]),
        (a_completion("hello", truncate_prompt_tokens=3), [1, 2, 3]),
        (a_completion([4, 5, 6], truncate_prompt_tokens=2), [5, 6]),
        (a_completion([4, 5, 6], truncate_prompt_tokens=-1), None),
    ],
)
async def test_no_prompt_is_told_but_the_one_that_the_engine_computes(
    book: Ledger, engine: Engine, view: RequestView, expected: list[int] | None
) -> None:
    found = await EngineTokens(asyncio.get_running_loop(), 30.0).read(view, [target(book, 0, engine.port)])
    assert (found and array("I", bytes(found.tokens)).tolist()) == expected
    assert expected is None or view.prompt_tokens == len(expected)


@pytest.mark.parametrize("prompt", ["hello", ["hello"]])
async def test_a_text_alone_in_a_list_is_asked_about_as_a_text(book: Ledger, engine: Engine, prompt: object) -> None:
    found = await EngineTokens(asyncio.get_running_loop(), 30.0).read(
        a_completion(prompt), [target(book, 0, engine.port)]
    )
    assert found is not None
    assert json.loads(engine.body)["prompt"] == "hello"
