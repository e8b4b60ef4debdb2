"""Events that the engine's connection passes on by itself: whatever way they are cut or written, the client gets the
same, they are counted, and nothing that somebody has to look at goes by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from time import monotonic

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.flows.relay import GROWTH
from pymotor.coordinator.http.framing import (
    EVENT_END,
    NO_CHUNK,
    SMALL_CHUNK,
    ChunkedDecoder,
    FramingError,
    are_events,
    chunk,
    event_lines,
    only_chunk,
)
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_HELD_TOKEN
from pymotor.coordinator.settings import Settings
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from server_sent_events import events_in
from worker_in_process import WorkerInProcess, until

LINES = event_lines()
# What can be carried on has every event looked at.
PLAIN = Settings(max_retry=0, retry_delay=0.0, recompute_enabled=False)
ASKED = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(ASKED), ASKED)
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
WIRE = st.lists(st.sampled_from((b"1", b"a", b"0", b"_", b" ", b"}", b"\r\n", b"\n\n", b"}\n\n\r\n")), max_size=12)


def event(text: str, more: str = "") -> bytes:
    return b'data: {"choices":[{"delta":{"content":%b}%b}]}\n\n' % (json.dumps(text).encode(), more.encode())


EVENTS = [event(f"word {number}") for number in range(12)]


def read_wholly(data: bytes) -> bytes | None:
    """The payload where `data` is chunks and none is the last or cut, else None."""
    decoder = ChunkedDecoder()
    try:
        payload, over = decoder.feed(data)
    except FramingError:
        return None
    return payload if decoder.at_boundary and not over else None


@given(st.integers(1, SMALL_CHUNK + 10))
def test_a_chunk_begins_as_its_length_says(size: int) -> None:
    wire = chunk(b"x" * size)
    assert only_chunk(wire, LINES) == len(wire) - size - 2
    if len(wire) < SMALL_CHUNK:
        assert LINES[len(wire)] == (b"%x\r\n" % size, size - len(EVENT_END) + 2)


def test_no_chunk_is_of_some_lengths() -> None:
    whole = {len(chunk(b"x" * size)) for size in range(1, SMALL_CHUNK)}
    assert [size for size in range(SMALL_CHUNK) if LINES[size] != NO_CHUNK] == sorted(whole & {*range(SMALL_CHUNK)})


@given(WIRE, st.binary(max_size=12))
def test_what_is_taken_for_chunks_is_chunks(parts: list[bytes], noise: bytes) -> None:
    data = b"".join(parts) + noise
    start = only_chunk(data, LINES)
    if start:
        assert read_wholly(data) == data[start:-2]
    if are_events(data):
        assert (read_wholly(data) or b"").endswith(b"}\n\n")


@given(st.lists(st.binary(max_size=9).map(lambda text: text + b"}\n\n"), min_size=1, max_size=5), st.integers(0, 90))
def test_events_are_known_and_a_part_of_them_is_not(payloads: list[bytes], cut: int) -> None:
    wire = b"".join(map(chunk, payloads))
    assert are_events(wire)
    part = wire[: cut % len(wire)]
    assert are_events(part) == (bool(part) and part in [b"".join(map(chunk, payloads[:n])) for n in range(6)])


def test_each_chunk_has_to_end_an_event() -> None:
    assert are_events(chunk(EVENTS[0]) + chunk(EVENTS[1]))
    assert not are_events(chunk(DONE) + chunk(EVENTS[1]))
    assert not are_events(chunk(EVENTS[0][:9]) + chunk(EVENTS[0][9:]))


def with_engine(
    script: Callable[[EngineConnection], Awaitable[None]],
    asks: Callable[[StrictClient, WorkerInProcess], Awaitable[None]],
) -> None:
    """One client before a worker before an engine of this behaviour; nothing is left behind."""

    async def run() -> None:
        async def served(connection: EngineConnection) -> None:
            await script(connection)

        async with ScriptedEngine(served) as engine, WorkerInProcess([engine.port], PLAIN) as gateway:
            async with StrictClient(gateway.port) as client:
                await asks(client, gateway)
            await gateway.until_idle()

    uvloop.run(run())


def relayed(*pieces: bytes) -> bytes:
    """What a client gets of a stream that comes in these reads."""
    bodies = []

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(*pieces)
        await connection.gone()

    async def asks(client: StrictClient, gateway: WorkerInProcess) -> None:
        answer = await client.ask(ASKED)
        assert (answer.status, answer.whole) == (200, True)
        bodies.append(answer.body)

    with_engine(script, asks)
    return bodies[0]


WIRES: dict[str, Callable[[bytes], bytes]] = {
    "as servers do": chunk,
    "upper case": lambda payload: b"%X\r\n%b\r\n" % (len(payload), payload),
    "zeros before it": lambda payload: b"%08x\r\n%b\r\n" % (len(payload), payload),
    "an extension": lambda payload: b"%x;a=b\r\n%b\r\n" % (len(payload), payload),
    "two chunks an event": lambda payload: chunk(payload[:20]) + chunk(payload[20:]),
}


@pytest.mark.parametrize("reads", ["one by one", "two together", "all at once", "cut anywhere"])
@pytest.mark.parametrize("written", WIRES)
def test_the_client_gets_every_event(written: str, reads: str) -> None:
    wires = [WIRES[written](one) for one in [*EVENTS, DONE]] + [END]
    if reads == "two together":
        wires = [b"".join(wires[at : at + 2]) for at in range(0, len(wires), 2)]
    elif reads == "all at once":
        wires = [b"".join(wires)]
    elif reads == "cut anywhere":
        whole = b"".join(wires)
        wires = [whole[start:stop] for start, stop in pairwise([*range(0, len(whole), 37), len(whole)])]
    assert relayed(HEAD + wires[0], *wires[1:]) == b"".join(EVENTS) + DONE


def test_events_of_any_size_between_others() -> None:
    sizes = [1, 900, SMALL_CHUNK - 60, SMALL_CHUNK, 5 * SMALL_CHUNK, 3]
    events = [event("y" * size) for size in sizes]
    events.insert(3, b": a comment\n\n")
    events.insert(5, event("crlf").replace(b"\n", b"\r\n"))
    assert relayed(HEAD, *map(chunk, events), chunk(DONE) + END) == b"".join(events) + DONE


@pytest.mark.parametrize("together", [False, True])
def test_an_answer_given_up_is_not_passed_on(together: bool) -> None:
    given_up = event("", ',"finish_reason":"stop","stop_reason":"recomputed"')
    wires = [chunk(EVENTS[1]), chunk(given_up), chunk(DONE) + END]
    body = relayed(HEAD + chunk(EVENTS[0]), *([b"".join(wires[:2]), wires[2]] if together else wires))
    assert b"recomputed" not in body.replace(b"gave", b"")
    assert json.loads(events_in(body)[-2].data)["error"]["code"] == "stream_interrupted"


def test_the_word_alone_gives_nothing_up() -> None:
    events = [event("a"), event("recomputed"), event('"recomputed"'), event("b")]
    assert relayed(HEAD, *map(chunk, events), chunk(DONE) + END) == b"".join(events) + DONE


@pytest.mark.parametrize("last", [event("then nothing"), DONE + event("after the end")])
def test_a_stream_that_only_ends_is_not_whole(last: bytes) -> None:
    wires = [chunk(one) for one in [*EVENTS, last]]
    body = relayed(HEAD + wires[0], *wires[1:], END)
    assert body.startswith(b"".join(EVENTS) + last)
    assert json.loads(events_in(body)[-2].data)["error"]["code"] == "stream_interrupted"


@pytest.mark.parametrize("together", [1, 5])
def test_what_is_passed_on_is_charged(together: int) -> None:
    """As often as there are `GROWTH` events more, so that fewer than that are left out."""
    events = 3 * GROWTH + 10
    seen = asyncio.Event()
    grown = []

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(HEAD + chunk(event("0")))
        await seen.wait()
        wires = [chunk(event(str(number))) for number in range(1, events)]
        await connection.say(*(b"".join(wires[at : at + together]) for at in range(0, len(wires), together)))
        await connection.request()

    async def asks(client: StrictClient, gateway: WorkerInProcess) -> None:
        client.send(REQUEST)
        await client._reader.readuntil(event("0"))
        before = gateway.loads()[0][0]
        seen.set()
        await client._reader.readuntil(event(str(events - 1)))
        grown.append((gateway.loads()[0][0] - before) / TENTHS_PER_HELD_TOKEN)

    with_engine(script, asks)
    assert events - GROWTH < grown[0] <= events
    assert together > 1 or grown[0] == events // GROWTH * GROWTH


def test_events_passed_on_are_no_silence() -> None:
    begun = asyncio.Event()

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(HEAD + chunk(EVENTS[0]))
        await begun.wait()
        await connection.say(chunk(EVENTS[1]))
        await connection.request()

    async def asks(client: StrictClient, gateway: WorkerInProcess) -> None:
        client.send(REQUEST)
        await client._reader.readuntil(EVENTS[0])
        (connection,) = gateway.worker._upstream.busy
        now = monotonic()
        connection.check_deadline(now)
        begun.set()
        await client._reader.readuntil(EVENTS[1])
        connection.check_deadline(now + 1)
        patient = now + 1 + connection.idle_seconds
        assert connection.deadline == patient
        connection.check_deadline(now + 2)
        assert connection.deadline == patient
        connection.check_deadline(patient)
        assert b"stream_interrupted" in await client._reader.readuntil(b"[DONE]")

    with_engine(script, asks)


def test_the_next_request_on_the_connection_has_said_nothing_yet() -> None:
    """So that an unhealthy engine which is silent is given up at once."""
    given_up: list[bool] = []

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(HEAD, *map(chunk, EVENTS), chunk(DONE) + END)
        await connection.request()
        await connection.request()

    async def asks(client: StrictClient, gateway: WorkerInProcess) -> None:
        assert (await client.ask(ASKED)).whole
        client.send(REQUEST)
        busy = gateway.worker._upstream.busy
        await until(lambda: len(busy) == 1, "the second request is sent")
        (connection,) = busy
        assert connection.reused
        connection._pool.suspect = True
        connection.check_deadline(monotonic())
        given_up.append(connection not in busy)
        assert (await client.answer()).status == 504

    with_engine(script, asks)
    assert given_up == [True]
