"""Engines whose replies are not HTTP as it should be: a defined answer, no exception, and the connection is not used
again."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from pymotor.coordinator.http.exchange import BadReply
from pymotor.coordinator.http.reply_head import ReplyHead
from scripted_engine import Answer, EngineConnection, ScriptedEngine, StrictClient
from server_sent_events import events_in
from worker_in_process import WorkerInProcess, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
ASKED = {stream: json.dumps({**CHAT, "stream": stream}).encode() for stream in (False, True)}
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
STREAM = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BEGUN = STREAM + b"%x\r\n%b\r\n" % (len(EVENT), EVENT)

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "words": b"hello\r\n\r\n",
    "empty lines": b"\r\n\r\n\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: g\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/0.9": b"{}",
    "RTSP": b"RTSP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Go\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + GOOD,
    "head without end": OK + b"x-a: " + b"y" * 70_000,
    "head cut short": OK + b"content-length: 2\r\n",
    "header without colon": OK + b"content-length 2\r\n\r\n{}",
    "folded header": OK + b"x-a: b\r\n c\r\ncontent-length: 2\r\n\r\n{}",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}\r\n\r\n",
    "NUL in a header": OK + b"x-a: \0\r\ncontent-length: 2\r\n\r\n{}",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "length with a sign": OK + b"content-length: +2\r\n\r\n{}",
    "negative length": OK + b"content-length: -2\r\n\r\n{}",
    "length beyond 64 bits": OK + b"content-length: 99999999999999999999\r\n\r\n{}",
    "length and chunks": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "gzip beside chunks": OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "xchunked": OK + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "shorter than its length": OK + b"content-length: 5\r\n\r\n{}",
    "chunks without end": CHUNKED + b"2\r\n{}\r\n",
    "a trailer without end": CHUNKED + b"2\r\n{}\r\n0\r\nx: y\r\n",
    "chunk size no number": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "chunk size negative": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "chunk size with a sign": CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "chunk size with an underscore": CHUNKED + b"0_2\r\n{}\r\n0\r\n\r\n",
    "chunk size huge": CHUNKED + b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n",
    "chunk size line endless": CHUNKED + b"2;" + b"x" * 1000,
    "chunk shorter than its size": CHUNKED + b"3\r\n{}\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "interim replies for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
}  # fmt: skip
"""Replies that are no reply; the connection ends behind them."""

ODD_BUT_GOOD: dict[str, bytes] = {
    "early hints": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + GOOD,
    "three interim replies": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + GOOD,
    "trailers": CHUNKED + b"2\r\n{}\r\n0\r\nx-sum: 1\r\ncontent-length: 7\r\n\r\n",
    "chunk extensions": CHUNKED + b'2;a="b"\r\n{}\r\n0;c\r\n\r\n',
    "chunk sizes with zeros": CHUNKED + b"0002\r\n{}\r\n000\r\n\r\n",
    "chunked in capitals": OK + b"Transfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "an upgrade offered": OK + b"upgrade: h2\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\n{}",
    "no reason": b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}",
}  # fmt: skip

NOT_USED_AGAIN: dict[str, bytes] = {
    "longer than its length": OK + b"content-length: 2\r\n\r\n{}{}",
    "two replies at once": GOOD + GOOD.replace(b"{}", b"[]"),
    "more behind the last chunk": CHUNKED + b"2\r\n{}\r\n0\r\n\r\nmore",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "closing": OK + b"connection: close\r\ncontent-length: 2\r\n\r\n{}",
}  # fmt: skip

BROKEN_STREAMS: dict[str, bytes] = {
    "ends": b"",
    "chunk size no number": b"zz\r\nhello",
    "chunk size with a sign": b"+3d\r\n" + b"data: " + b"x" * 53 + b"\n\n\r\n",
    "chunk size with 0x": b"0xc\r\ndata: {}xx\n\n\r\n",
    "chunk size with a space": b" c\r\ndata: {}xx\n\n\r\n",
    "chunk longer than its size": b"2\r\nhello\r\n",
    "two chunk ends": b"0\r\n\r\n0\r\n\r\n",
    "without DONE": b"0\r\n\r\n",
    "another reply": GOOD,
    "half an event": b"5\r\ndata:\r\n0\r\n\r\n",
}  # fmt: skip
"""What follows a stream's first event."""


@pytest.fixture(autouse=True)
def no_exception(caplog: pytest.LogCaptureFixture) -> object:
    """Nothing is logged as an error, whatever the engine sends."""
    caplog.set_level(logging.WARNING)
    yield
    assert not [record.getMessage() for record in caplog.records]


def with_engine(
    script: Callable[[EngineConnection], Awaitable[None]],
    asks: Callable[[StrictClient, ScriptedEngine], Awaitable[None]],
) -> None:
    """Run one client against a worker before an engine of this behaviour; nothing is left behind."""

    async def run() -> None:
        async def served(connection: EngineConnection) -> None:
            await script(connection)

        async with ScriptedEngine(served) as engine, WorkerInProcess([engine.port]) as gateway:
            async with StrictClient(gateway.port) as client:
                await asks(client, engine)
            await gateway.until_idle()

    uvloop.run(run())


def assert_502(answer: Answer) -> None:
    """An error object with a reason, and nothing of the engine's address."""
    assert answer.whole
    assert answer.status == 502, answer.body
    error = json.loads(answer.body)["error"]
    assert error["code"] in ("engine_unreachable", "engine_error")
    assert error["message"]
    assert b"127.0.0.1" not in answer.body


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_reply_is_a_502(case: str, stream: bool) -> None:
    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(REFUSED[case])

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        for count in (1, 2):
            assert_502(await client.ask(ASKED[stream]))
            assert engine.accepted == count, "the connection is not used again"

    with_engine(script, asks)


MIGHT_BECOME_GOOD = {
    "nothing", "HTTP/0.9", "head cut short", "shorter than its length", "chunks without end", "a trailer without end",
    "chunk shorter than its size",
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED.keys() - MIGHT_BECOME_GOOD))
def test_a_bad_reply_is_not_waited_for(case: str) -> None:
    """The bytes are wrong already: the engine's connection is closed though the engine keeps it open."""

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(REFUSED[case])
        await connection.gone()

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        assert_502(await client.ask(ASKED[False]))
        await until(lambda: not engine.open, "the gateway closes the connection")

    with_engine(script, asks)


@pytest.mark.parametrize("case", ODD_BUT_GOOD)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_odd_but_a_reply(case: str, size: int) -> None:
    wire = ODD_BUT_GOOD[case]

    async def script(connection: EngineConnection) -> None:
        while True:
            await connection.request()
            await connection.say(*(wire[at : at + size] for at in range(0, len(wire), size)))

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        for _ in range(3):
            answer = await client.ask(ASKED[False])
            assert (answer.status, answer.body) == (200, b"{}")
        assert engine.accepted == 1, "the connection is used again"

    with_engine(script, asks)


@pytest.mark.parametrize("case", NOT_USED_AGAIN)
def test_a_connection_that_said_too_much_is_not_used_again(case: str) -> None:
    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(NOT_USED_AGAIN[case])
        await connection.gone()

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        for count in (1, 2):
            answer = await client.ask(ASKED[False])
            assert (answer.status, answer.body) == (200, b"{}")
            assert engine.accepted == count
        await until(lambda: not engine.open, "the gateway closes the connections")

    with_engine(script, asks)


def test_a_second_reply_later_is_nobodys() -> None:
    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(GOOD, GOOD.replace(b"{}", b"[]"))
        await connection.gone()

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        for count in (1, 2, 3):
            answer = await client.ask(ASKED[False])
            assert answer.body == b"{}"
            await until(lambda: not engine.open, "the gateway closes the connection that spoke unasked")
            assert engine.accepted == count

    with_engine(script, asks)


@pytest.mark.parametrize("unasked", [GOOD, b"", b"x"], ids=["a reply", "closed", "a byte"])
def test_an_engine_that_speaks_or_closes_before_it_is_asked(unasked: bytes) -> None:
    async def script(connection: EngineConnection) -> None:
        if unasked:
            await connection.say(unasked)
            await connection.gone()

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        for _ in range(20):
            assert_502(await client.ask(ASKED[False]))

    with_engine(script, asks)


@pytest.mark.parametrize("case", BROKEN_STREAMS)
def test_a_stream_that_goes_wrong_ends_with_an_error_event(case: str) -> None:
    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(BEGUN, BROKEN_STREAMS[case])

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        answer = await client.ask(ASKED[True])
        assert (answer.status, answer.whole) == (200, True)
        first, error, done = events_in(answer.body)
        assert first.data in EVENT.decode()
        assert json.loads(error.data)["error"]["code"] == "stream_interrupted"
        assert done.data == "[DONE]"

    with_engine(script, asks)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_bytes_that_are_no_text(status: int, stream: bool) -> None:
    """Neither an error's message nor a stream's first event has to be UTF-8 for a defined answer."""
    texts = [
        b'data: {"choices":[{"text":"\xff","delta":{"content":"\xff"}}]}\n\n',
        b'data: {"error":{"message":"\xff"}}\n\n',
        b'{"error":{"message":"\xff","code":"\xff"}}',
        b"\xff",
        b"data: \xff\n\n",
    ]
    for text in texts:
        head = b"HTTP/1.1 %d X\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % (status, len(text))

        async def script(connection: EngineConnection, reply: bytes = head + text) -> None:
            await connection.request()
            await connection.say(reply)

        async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
            answer = await client.ask(ASKED[stream])
            assert answer.whole
            assert answer.status in {200: (200, 502), 400: (400,), 500: (502,)}[status]

        with_engine(script, asks)


def test_a_reset_in_mid_stream() -> None:
    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(BEGUN)
        connection.reset()

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        answer = await client.ask(ASKED[True])
        assert json.loads(events_in(answer.body)[1].data)["error"]["code"] == "stream_interrupted"

    with_engine(script, asks)


PIECES = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n", b"HTTP/1.1 100 Go on\r\n", b"HTTP/1.0 204 \r\n", b"\r\n", b"\n",
    b"content-length: 2\r\n", b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n", b"{}", b"2\r\n{}\r\n",
    b"0\r\n\r\n", b"connection: close\r\n", b"upgrade: x\r\n", b"content-type: text/event-stream\r\n", b"\0", b" ",
    b"x: y\r\n", b"data: [DONE]\n\n", EVENT, BEGUN, STREAM, b"c\r\ndata: {}xx\n\n\r\n", b"\r\n\r\n", GOOD, CHUNKED,
]  # fmt: skip


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
def test_any_head_is_read_or_refused(data: bytes) -> None:
    try:
        head = ReplyHead(data[: data.find(b"\r\n\r\n")])
    except BadReply:
        return
    assert 100 <= head.status < 600
    assert head.length is None or head.length >= 0
    assert not (head.chunked and head.length is not None)


def test_any_reply_gives_a_defined_answer() -> None:
    """Replies made of likely pieces, through real sockets."""
    chance = random.Random(1)
    reply: list[bytes] = []

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(*reply)

    async def asks(client: StrictClient, engine: ScriptedEngine) -> None:
        for _ in range(600):
            reply[:] = chance.choice(([], [STREAM], [OK])) + chance.choices(PIECES, k=chance.randint(0, 6))
            stream = chance.random() < 0.5
            answer = await client.ask(ASKED[stream])
            assert answer.whole, reply
            if answer.status >= 400:
                assert isinstance(json.loads(answer.body or b"{}"), dict) or answer.status == 500, reply
            elif stream and answer.headers.get(b"Content-Type") == b"text/event-stream":
                assert events_in(answer.body)[-1].data == "[DONE]", reply

    with_engine(script, asks)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_stream_that_the_gateway_cuts_does_not_look_whole(version: bytes) -> None:
    """In HTTP/1.0 the end of the connection is the end of a stream, so that it takes a reset."""

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(BEGUN)
        await connection.gone()

    async def scenario() -> None:
        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as worker:
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            head = b"POST /v1/chat/completions HTTP/%b\r\nHost: g\r\nContent-Type: application/json\r\n" % version
            writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(ASKED[True]), ASKED[True]))
            received = await reader.readuntil(EVENT)
            assert received.startswith(b"HTTP/1.1 200")
            await worker.worker.drain(0.0)
            if version == b"1.0":
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            else:
                assert not (await reader.read()).endswith(b"0\r\n\r\n")
            writer.close()

    uvloop.run(scenario())
