"""Streams of Messages and Responses come out as they went in, wherever they are cut.

One that is cut short never looks whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest
import uvloop

from scripted_engine import Answer, EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import WorkerInProcess

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def event(kind: str, **fields: object) -> bytes:
    """One event as vLLM writes it."""
    return f"event: {kind}\ndata: {json.dumps({**fields, 'type': kind}, separators=(',', ':'))}\n\n".encode()


MESSAGES = [
    event("message_start", message={"id": "m", "content": []}),
    event("content_block_start", content_block={"type": "text", "text": ""}, index=0),
    event("content_block_delta", delta={"type": "text_delta", "text": "message_stop"}, index=0),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1}),
    event("message_stop"),
]
RESPONSES = [
    event("response.created", response={"id": "r", "output": []}, sequence_number=0),
    event("response.output_item.added", item={"type": "message", "content": []}, sequence_number=1),
    event("response.output_text.delta", delta="response.completed", sequence_number=2),
    event("response.output_text.done", text="response.completed", sequence_number=3),
    event("response.completed", response={"id": "r", "output": [{"text": "event: x\n\n"}]}, sequence_number=4),
]
BODIES = {
    "/v1/messages": {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "stream": True},
    "/v1/responses": {"model": "tiny", "input": "x", "stream": True},
}
STREAMS = {"/v1/messages": MESSAGES, "/v1/responses": RESPONSES}
CONTENT = {"/v1/messages": b'"text_delta"', "/v1/responses": b"output_text.delta"}

pytestmark = pytest.mark.parametrize("path", STREAMS)


def chunk(piece: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def ask_each(path: str, replies: Iterable[list[bytes]], check: Callable[[list[bytes], Answer], None]) -> None:
    """Have an engine send each reply, piece by piece, then close; look at what a client gets."""
    body = json.dumps(BODIES[path]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reply: list[bytes] = []

    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(*reply)

    async def scenario() -> None:
        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as worker:
            async with StrictClient(worker.port) as client:
                for pieces in replies:
                    reply[:] = pieces
                    client.send(head.encode() + body)
                    check(pieces, await client.answer())
            await worker.until_idle()

    uvloop.run(scenario())


def test_cut_at_every_byte(path: str) -> None:
    payload = b"".join(STREAMS[path])

    def whole(pieces: list[bytes], answer: Answer) -> None:
        assert (answer.status, answer.whole, answer.body) == (200, True, payload), pieces

    ask_each(
        path,
        ([CHUNKED, chunk(payload[:place]), chunk(payload[place:]), LAST_CHUNK] for place in range(1, len(payload))),
        whole,
    )


@pytest.mark.parametrize("ends", [b"", LAST_CHUNK], ids=["connection", "chunks"])
def test_ended_at_every_byte_it_never_looks_whole(path: str, ends: bytes) -> None:
    payload = b"".join(STREAMS[path])

    def broken(pieces: list[bytes], answer: Answer) -> None:
        sent = pieces[1].partition(b"\r\n")[2][:-2]
        told = [text for text in answer.body.split(b"\n\n") if text]
        if answer.status != 200:
            assert answer.status == 502, pieces
            assert not any(CONTENT[path] in text for text in sent.split(b"\n\n")[:-1]), "it had content"
            return
        assert answer.whole
        name, _, data = told[-1].partition(b"\ndata: ")
        assert name == b"event: error"
        assert json.loads(data)["type"] == "error"
        assert sent.startswith(b"".join(text + b"\n\n" for text in told[:-1])), "nothing but what was sent"

    ask_each(path, ([CHUNKED, chunk(payload[:place]) + ends] for place in range(1, len(payload))), broken)


def test_all_events_at_once_or_each_in_two_lines_of_chunks(path: str) -> None:
    payload = b"".join(STREAMS[path])

    def whole(pieces: list[bytes], answer: Answer) -> None:
        assert (answer.status, answer.whole, answer.body) == (200, True, payload), pieces

    one_by_one = [chunk(text) for text in STREAMS[path]]
    ask_each(
        path,
        [
            [CHUNKED + chunk(payload) + LAST_CHUNK],
            [CHUNKED, chunk(payload), LAST_CHUNK],
            [CHUNKED, *one_by_one, LAST_CHUNK],
            [CHUNKED, *one_by_one[:-1], one_by_one[-1] + LAST_CHUNK],
            [CHUNKED, b"".join(one_by_one), LAST_CHUNK],
            [CHUNKED, *(chunk(payload[at : at + 1]) for at in range(len(payload))), LAST_CHUNK],
        ],
        whole,
    )


def test_crlf_and_an_error_of_the_engines_own(path: str) -> None:
    events = [text.replace(b"\n", b"\r\n") for text in STREAMS[path]]
    failed = event("error", error={"type": "internal_error", "message": "words"}, message="words")

    def check(pieces: list[bytes], answer: Answer) -> None:
        if failed not in pieces[1]:
            assert (answer.status, answer.body) == (200, b"".join(events))
        elif CONTENT[path] in pieces[1]:
            assert answer.status == 200
            assert answer.body.count(b"event: error") == 2, "the engine's and, since it does not end the stream, ours"
        else:
            assert answer.status == 502
            assert b"words" in answer.body

    content = next(number for number, text in enumerate(STREAMS[path]) if CONTENT[path] in text)
    ask_each(
        path,
        [
            [CHUNKED, b"".join(map(chunk, events)), LAST_CHUNK],
            [CHUNKED, chunk(STREAMS[path][0] + failed) + LAST_CHUNK],
            [CHUNKED, chunk(b"".join(STREAMS[path][: content + 1]) + failed) + LAST_CHUNK],
        ],
        check,
    )
