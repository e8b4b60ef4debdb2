"""A stream comes out as it went in, wherever its bytes are cut on their way and however they are merged.

A scripted engine sends through a real worker to a real client. Every piece is read by itself, so that each test
decides what one `data_received` of the gateway sees.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
import uvloop

from pymotor.coordinator.http.upstream import UpstreamConnection
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from server_sent_events import events_in
from worker_in_process import WorkerInProcess, until

ASKED = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def delta(**fields: str) -> bytes:
    """The JSON of one chunk of a chat."""
    return json.dumps({"choices": [{"delta": fields}]}, separators=(",", ":")).encode()


ROLE, WORD, OTHER = delta(role="assistant"), delta(content="x"), delta(content="\n\n")
STREAMS = {
    "LF": [b"data: " + ROLE, b"data: " + WORD, b"data: " + OTHER, b"data: [DONE]"],
    "no space": [b"data:" + ROLE, b"data:" + WORD, b"data:[DONE]"],
    "comments": [b": ping", b"data: " + WORD, b":", b": data: none", b"data: [DONE]"],
    "event lines": [b"event: start\ndata: " + ROLE, b"event: data: x\nid: 7\ndata: " + WORD, b"data: [DONE]"],
    "several data lines": [b"data: " + ROLE, b"data: {\ndata:" + WORD[1:], b"data: [DONE]"],
}
"""Events without the empty line behind them."""
ENDS = {"LF": b"\n", "CRLF": b"\r\n"}


def payload_pieces(name: str, end: str) -> list[bytes]:
    """The stream's events with this line end, each whole."""
    line_end = ENDS[end]
    return [line_end.join([*event.split(b"\n"), b"", b""]) for event in STREAMS[name]]


def in_chunks(pieces: Iterable[bytes]) -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def pieces_of(data: bytes, size: int) -> list[bytes]:
    """`data` in pieces of `size`, the last one shorter."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def cut_at(data: bytes, *places: int) -> list[bytes]:
    """`data` cut at these places."""
    return [data[start:end] for start, end in pairwise(sorted({0, *places, len(data)}))]


def merges(pieces: list[bytes]) -> Iterator[list[bytes]]:
    """All ways to join neighbours."""
    for joined in range(1 << (len(pieces) - 1)):
        found = [pieces[0]]
        for number, piece in enumerate(pieces[1:]):
            if joined >> number & 1:
                found[-1] += piece
            else:
                found.append(piece)
        yield found


def relayed(replies: Iterable[list[bytes]], expected: bytes, version: bytes = b"1.1") -> None:
    """Send each reply, piece by piece, and see that a client gets `expected` and a proper end."""

    async def run() -> None:
        cuts: list[bytes] = []

        async def script(connection: EngineConnection) -> None:
            while True:
                await connection.request()
                await connection.say(*cuts)
                if b"connection: close" in b"".join(cuts):
                    return

        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as gateway:
            waiting = list(replies)
            while waiting:
                async with StrictClient(gateway.port) as client:
                    while waiting:
                        cuts[:] = waiting.pop()
                        answer = await client.ask(ASKED, version)
                        assert (answer.status, answer.whole, answer.body) == (200, True, expected), cuts
                        if version == b"1.0":
                            break
            await gateway.until_idle()

    uvloop.run(run())


@pytest.fixture(params=[(name, end) for name in STREAMS for end in ENDS], ids="-".join)
def events(request: pytest.FixtureRequest) -> list[bytes]:
    """A stream's events, each whole."""
    name, end = request.param
    return payload_pieces(name, end)


def test_the_streams_are_what_they_seem() -> None:
    for name, count in {"LF": 4, "no space": 3, "comments": 2, "event lines": 3, "several data lines": 3}.items():
        found = [events_in(b"".join(payload_pieces(name, end))) for end in ENDS]
        assert found[0] == found[1]
        assert len(found[0]) == count


def test_cut_once_at_every_byte_of_the_wire(events: list[bytes]) -> None:
    wire = CHUNKED + in_chunks(events)
    relayed((cut_at(wire, place) for place in range(1, len(wire))), b"".join(events))


def test_chunked_at_every_byte_of_the_payload(events: list[bytes]) -> None:
    """Each chunk read by itself, so that it may be handed on as it stands."""
    payload = b"".join(events)
    replies = (
        [CHUNKED, *(in_chunks([piece])[:-5] for piece in cut_at(payload, place)), b"0\r\n\r\n"]
        for place in range(1, len(payload))
    )
    relayed(replies, payload)


def test_bytes_one_by_one(events: list[bytes]) -> None:
    payload = b"".join(events)
    replies = [pieces_of(CHUNKED + in_chunks(pieces_of(payload, size)), 1) for size in (1, 7, len(payload))]
    relayed(replies, payload)


def test_events_merged_in_all_ways(events: list[bytes]) -> None:
    """In chunks of several events and in reads of several chunks; halves of events too."""
    payload = b"".join(events)
    halves = [half for event in events for half in cut_at(event, len(event) // 2)]
    in_one_read = ([CHUNKED, *(in_chunks([piece])[:-5] for piece in merged), b"0\r\n\r\n"] for merged in merges(halves))
    relayed(in_one_read, payload)
    wire = [CHUNKED, *(in_chunks([half])[:-5] for half in halves), b"0\r\n\r\n"]
    relayed(merges(wire), payload)


def test_a_reply_without_chunks(events: list[bytes]) -> None:
    payload = b"".join(events)
    sized = HEAD + b"content-length: %d\r\n\r\n" % len(payload) + payload
    until_close = HEAD + b"connection: close\r\n\r\n" + payload
    for wire in (sized, until_close):
        relayed((cut_at(wire, place) for place in range(1, len(wire), 5)), payload)


def test_a_client_without_chunks(events: list[bytes]) -> None:
    wire = CHUNKED + in_chunks(events)
    relayed((cut_at(wire, place) for place in range(1, len(wire), 5)), b"".join(events), b"1.0")


def test_a_cut_short_stream_never_looks_whole(events: list[bytes]) -> None:
    """Ended before its last byte, the engine's connection leaves an error event or no head at all."""
    wire = CHUNKED + in_chunks(events)
    payload = b"".join(events)

    async def run() -> None:
        place = 0

        async def script(connection: EngineConnection) -> None:
            await connection.request()
            await connection.say(wire[:place])

        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as gateway:
            for place in range(len(wire)):  # noqa: B007  the script reads it
                async with StrictClient(gateway.port) as client:
                    answer = await client.ask(ASKED)
                    assert answer.whole
                    if answer.status == 200:
                        *before, error, done = events_in(answer.body)
                        assert json.loads(error.data)["error"]["code"] == "stream_interrupted"
                        assert done.data == "[DONE]"
                        assert before == events_in(payload)[: len(before)]
                    else:
                        assert answer.status == 502
            await gateway.until_idle()

    uvloop.run(run())


def test_each_piece_is_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above rest on."""
    reads: list[bytes] = []
    received = UpstreamConnection.data_received

    def note(self: UpstreamConnection, data: bytes) -> None:
        reads.append(data)
        received(self, data)

    monkeypatch.setattr(UpstreamConnection, "data_received", note)
    events = payload_pieces("LF", "LF")
    pieces = pieces_of(CHUNKED + in_chunks(events), 3)
    relayed([pieces], b"".join(events))
    assert reads == pieces


def test_an_unfinished_event_is_held_back() -> None:
    """Until it is whole: an error event that has to follow must not land inside it."""

    async def run() -> None:
        on = asyncio.Event()
        first, second = (b"data: " + word + b"\n\n" for word in (WORD, OTHER))

        async def script(connection: EngineConnection) -> None:
            await connection.request()
            await connection.say(CHUNKED, in_chunks([first])[:-5], in_chunks([second[:9]])[:-5])
            await on.wait()

        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as gateway:
            async with StrictClient(gateway.port) as client:
                asking = asyncio.ensure_future(client.ask(ASKED))
                await until(lambda: engine.accepted, "the engine is asked")
                on.set()
                found = events_in((await asking).body)
            assert [event.data for event in found[:1]] == [WORD.decode()]
            assert [json.loads(event.data).get("error", {}).get("code") for event in found[1:-1]] == [
                "stream_interrupted"
            ]

    uvloop.run(run())
