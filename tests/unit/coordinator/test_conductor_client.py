"""One worker's line to the conductor, before a conductor that says exactly what the test wants."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvloop

from pymotor.coordinator.affinity.conductor_client import Address, Asked, ConductorClient
from pymotor.fleet.prefix_queries import (
    LENGTH_BYTES,
    LONGEST_FRAME,
    LONGEST_NAME,
    MOST_MEDIA,
    PREFACE,
    Followed,
    FromConductor,
    FromCoordinator,
    Hello,
    PrefixMatches,
    PrefixQuery,
    PrefixRouted,
    bounded,
)
from worker_in_process import until

TOKENS = array("I", range(8)).tobytes()
LONG, SHORT = 60.0, 0.02
"""Seconds of patience."""


class ScriptedConductor:
    """Hears frames, and says what it is told to."""

    def __init__(self) -> None:
        self.heard: list[FromCoordinator] = []
        self.connections = 0
        self.left = 0
        """Connections that the client has ended."""
        self.endpoints: list[str] | None = ["a", "", "b"]
        """What it says it follows; None: nothing."""
        self.answering = True
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await self._server.wait_closed()

    def drop(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    def say(self, message: FromConductor) -> None:
        self.say_bytes(msgspec.msgpack.encode(message))

    def say_bytes(self, content: bytes) -> None:
        assert self._writer is not None
        self._writer.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        try:
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            while True:
                length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "little")
                message = msgspec.msgpack.decode(await reader.readexactly(length), type=FromCoordinator)
                self.heard.append(message)
                if isinstance(message, Hello) and self.endpoints is not None:
                    self.say(Followed(self.endpoints, 1))
                if isinstance(message, PrefixQuery) and self.answering:
                    self.say(answer(message.number))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
            writer.close()

    def of(self, kind: type) -> list[FromCoordinator]:
        return [message for message in self.heard if isinstance(message, kind)]


def answer(number: int, revision: int = 1, slots: tuple[int, ...] = (0, 2)) -> PrefixMatches:
    """`a` holds 4 tokens, `b` 8 with what was just sent there."""

    def packed(*values: int) -> bytes:
        return array("I", values[: len(slots)]).tobytes()

    return PrefixMatches(number, revision, array("H", slots).tobytes(), packed(4, 0), packed(4, 4), packed(4, 8))


@asynccontextmanager
async def conversing(
    patience: float = LONG, token: str = ""
) -> AsyncIterator[tuple[ConductorClient, ScriptedConductor]]:
    """A client that is connected to a conductor."""
    conductor = ScriptedConductor()
    await conductor.start()
    client = ConductorClient(
        Address("127.0.0.1", conductor.port), token, asyncio.get_running_loop(), patience=patience, chance=lambda: 0.0
    )
    client.start()
    try:
        await until(lambda: client.holders is not None, "the conductor has said whom it follows")
        yield client, conductor
    finally:
        await client.close()
        await conductor.stop()


async def ask(client: ConductorClient) -> Asked:
    return await client.ask("m", TOKENS, [(3, "an image")], salt="s")


async def test_a_question_and_where_the_prompt_went() -> None:
    async with conversing(token="a-token-that-is-long-enough") as (client, conductor):
        asked = await ask(client)
        assert asked.outcome == "answered"
        assert asked.matches is not None
        client.routed(asked.matches.number, "b")
        await until(lambda: conductor.of(PrefixRouted), "the conductor hears where it went")
        assert conductor.heard == [
            Hello("a-token-that-is-long-enough"),
            PrefixQuery(1, "m", memoryview(TOKENS), [(3, "an image")], "", "s"),
            PrefixRouted(1, "b"),
        ]


async def test_a_long_prompt_is_asked_whole() -> None:
    tokens = bytes(range(256)) * 4096
    async with conversing() as (client, conductor):
        assert (await client.ask("m", tokens, [])).outcome == "answered"
        assert [question.tokens for question in conductor.of(PrefixQuery)] == [tokens]


async def test_what_clients_choose_at_any_length_makes_no_long_frame() -> None:
    salt, identifier = "s" * (LONGEST_FRAME + 1), "an image" * 100
    async with conversing() as (client, conductor):
        assert (await client.ask("m", TOKENS, [(3, identifier)], salt=salt)).outcome == "answered"
        assert conductor.of(PrefixQuery) == [
            PrefixQuery(1, "m", memoryview(TOKENS), [(3, bounded(identifier))], "", bounded(salt))
        ]


@pytest.mark.parametrize(
    ("model", "adapter", "tokens", "media"),
    [
        ("m" * (LONGEST_NAME + 1), "", TOKENS, []),
        ("m", "a" * (LONGEST_NAME + 1), TOKENS, []),
        ("m", "", TOKENS, [(3, "an image")] * (MOST_MEDIA + 1)),
        ("m", "", bytes(LONGEST_FRAME), []),
    ],
)
async def test_a_question_that_the_conductor_would_not_read_is_not_asked(
    model: str, adapter: str, tokens: bytes, media: list[tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    async with conversing() as (client, conductor):
        for _ in range(3):
            assert await client.ask(model, tokens, media, adapter=adapter) == Asked("closed", None)
        assert (await ask(client)).outcome == "answered"
        assert (conductor.connections, len(conductor.of(PrefixQuery))) == (1, 1)
    assert caplog.text.count("longer than the KV Conductor takes") == 1


async def test_questions_do_not_wait_for_each_other() -> None:
    async with conversing() as (client, conductor):
        conductor.answering = False
        asking = [asyncio.create_task(ask(client)) for _ in range(3)]
        await until(lambda: len(conductor.of(PrefixQuery)) == 3, "all are asked")
        for number in (1, 2, 3):
            conductor.say(answer(number))
        assert [(await one).outcome for one in asking] == ["answered"] * 3


async def test_an_answer_in_pieces() -> None:
    async with conversing() as (client, conductor):
        conductor.answering = False
        asking = asyncio.create_task(ask(client))
        await until(lambda: conductor.of(PrefixQuery), "it is asked")
        content = msgspec.msgpack.encode(answer(1))
        framed = len(content).to_bytes(LENGTH_BYTES, "little") + content
        assert conductor._writer is not None
        for byte in framed:
            conductor._writer.write(bytes((byte,)))
            await conductor._writer.drain()
        assert (await asking).outcome == "answered"


async def test_who_is_late_is_not_waited_for_and_after_a_while_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pymotor")
    async with conversing(patience=SHORT) as (client, conductor):
        conductor.answering = False
        assert [(await ask(client)).outcome for _ in range(5)] == ["late"] * 5
        assert (await ask(client)).outcome == "closed"
        assert len(conductor.of(PrefixQuery)) == 5
        assert caplog.text.count("is late: texts are compared") == 1
        assert "in time again" not in caplog.text
        # Answers that come after all change nothing for those that have gone on.
        conductor.say(answer(1))
        conductor.answering = True
        found: list[str] = []

        async def answered() -> None:
            while "answered" not in found:
                found.append((await ask(client)).outcome)
                await asyncio.sleep(0)

        await asyncio.wait_for(answered(), 60)
        assert (await ask(client)).outcome == "answered"
        assert caplog.text.count("in time again") == 1, "said once, by the first answer"


async def test_a_conductor_that_goes_and_comes_again() -> None:
    async with conversing() as (client, conductor):
        conductor.answering = False
        asking = asyncio.create_task(ask(client))
        await until(lambda: conductor.of(PrefixQuery), "it is asked")
        await conductor.stop()
        assert (await asking).outcome == "lost"
        assert (await ask(client)).outcome == "closed"
        conductor.answering = True
        await conductor.start()
        await until(lambda: client.holders is not None, "it is connected again")
        assert (await ask(client)).outcome == "answered"


def test_what_is_said_when_the_conductor_has_just_gone_raises_nothing() -> None:
    """uvloop refuses to write from the moment of the loss on, before whoever keeps the connection has heard of it."""

    async def talk_until_it_is_lost() -> None:
        async with conversing() as (client, conductor):
            conductor.drop()
            said = 0
            while client.connected:
                client.routed(1, "b")
                said += 1
                await asyncio.sleep(0)
            assert said

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(talk_until_it_is_lost())
    finally:
        loop.close()


async def test_who_asks_no_more_hangs_up() -> None:
    async with conversing() as (client, conductor):
        await client.close()
        await until(lambda: conductor.left == 1, "the connection is closed")
        assert await ask(client) == Asked("closed", None)


@pytest.mark.parametrize(
    "words",
    [
        msgspec.msgpack.encode(["nonsense"]),
        b"\xc1",
        msgspec.msgpack.encode(answer(1, revision=7)),
        msgspec.msgpack.encode(answer(1, slots=(0, 3))),
        msgspec.msgpack.encode(PrefixMatches(1, 1, b"\0\0", b"", b"", b"")),
        msgspec.msgpack.encode(PrefixMatches(1, 1, b"\0", b"", b"", b"")),
    ],
)
async def test_nonsense_ends_the_connection_and_no_request(words: bytes) -> None:
    async with conversing() as (client, conductor):
        conductor.answering = False
        asking = asyncio.create_task(ask(client))
        await until(lambda: conductor.of(PrefixQuery), "it is asked")
        conductor.say_bytes(words)
        assert (await asking).outcome == "lost"
        await until(lambda: conductor.connections == 2, "another connection is made")


@pytest.mark.parametrize("host", ["kv..conductor", "x" * 64])
def test_a_name_that_nobody_can_look_for_is_tried_again(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is looked for anew each time; the pauses are counted, by whom the client asks how long they are."""

    async def try_it() -> None:
        pauses: list[float] = []

        def chance() -> float:
            pauses.append(0.0)
            return -1.0

        loop = asyncio.get_running_loop()
        client = ConductorClient(Address(host, 1), "", loop, patience=LONG, chance=chance)
        client.start()
        await until(lambda: len(pauses) > 2, "it tries again and again")
        assert await ask(client) == Asked("closed", None)
        await client.close()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(try_it())
    finally:
        loop.close()
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("pymotor.")]
    assert "no KV Conductor at" in told
    assert " (" in told, "why"


async def test_that_nobody_is_asked_any_more_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise RuntimeError("a mistake")

    client = ConductorClient(Address("127.0.0.1", 1), "", asyncio.get_running_loop(), patience=LONG, chance=broken)
    client.start()
    await until(lambda: "not asked any more" in caplog.text, "it is told")
    assert "a mistake" in caplog.text
    await client.close()


async def test_nobody_is_asked_before_it_says_whom_it_follows() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = ConductorClient(Address("127.0.0.1", port), "", asyncio.get_running_loop(), patience=LONG)
        client.start()
        await until(lambda: client.connected, "it is connected")
        assert await ask(client) == Asked("closed", None)
        await client.close()
        assert not client.connected
