"""What an engine is sent of a client's head, word for word."""

from __future__ import annotations

import json

import pytest
import uvloop

from pymotor.coordinator.settings import Settings
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import WorkerInProcess

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}).encode()
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
OWN = {"host", "content-type", "x-request-id", "content-length"}
SENT = (
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"tracestate: a=1,b=2",
    b"X-Session-ID: s",
    b"X-Vllm-Priority: -5",
    b"anthropic-version: 2023-06-01",
    b"anthropic-beta: x",
    b"X-Mine: mine",
    b"Authorization: Bearer the-client's",
    b"X-Api-Key: the-client's",
    b"Cookie: c=1",
    b"X-Request-Id: the-client's",
    b"OpenAI-Organization: o",
    b"Accept-Encoding: gzip",
    b"TE: trailers",
)


def request(path: str, *lines: bytes) -> bytes:
    """A POST with these header lines."""
    own = (f"POST {path} HTTP/1.1".encode(), b"Host: g", b"Content-Type: application/json")
    return b"\r\n".join((*own, *lines, b"Content-Length: %d" % len(BODY), b"", BODY))


def heads_at_engine(settings: Settings, *requests: bytes) -> list[list[bytes]]:
    """The head's lines of each request that reaches an engine; refused ones do not."""
    heads: list[list[bytes]] = []

    async def script(connection: EngineConnection) -> None:
        while True:
            heads.append((await connection.request()).partition(b"\r\n\r\n")[0].split(b"\r\n"))
            await connection.say(REPLY)

    async def scenario() -> None:
        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port], settings) as worker:
            for one in requests:
                async with StrictClient(worker.port) as client:
                    client.send(one)
                    await client.answer()

    uvloop.run(scenario())
    return heads


def forwarded(settings: Settings, *lines: bytes, path: str = "/v1/chat/completions") -> dict[str, str]:
    """What the engine gets beside what every leg has."""
    ((_, *found),) = heads_at_engine(settings, request(path, *lines))
    named = dict(line.decode().split(": ", 1) for line in found)
    assert len(named) == len(found)
    assert {name.lower() for name in named} >= OWN
    assert "the-client's" not in named["X-Request-Id"]
    return {name: value for name, value in named.items() if name.lower() not in OWN}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/tokenize"])
def test_the_list_and_nothing_else(path: str) -> None:
    assert forwarded(Settings(), *SENT, path=path) == {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=1,b=2",
        "X-Session-ID": "s",
        "X-Vllm-Priority": "-5",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "x",
    }
    assert forwarded(Settings(), path=path) == {}


def test_more_headers_where_configured() -> None:
    settings = Settings(forward_headers=("X-Mine", "Cookie"), forward_authorization=True)
    assert forwarded(settings, *SENT[6:10]) == {"X-Mine": "mine", "Authorization": "Bearer the-client's"}


def test_the_engines_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_ENGINES_KEY", "k-123")
    settings = Settings(engine_api_key_env="OUR_ENGINES_KEY", forward_authorization=True)
    assert "k-123" not in repr(settings)
    for lines in ((), SENT[7:9]):
        assert forwarded(settings, *lines) == {"Authorization": "Bearer k-123"}


@pytest.mark.parametrize("value", [
    b"a\rX-Evil: 1", b"a\nX-Evil: 1", b"a\r\n X-Evil: 1", b"a\r\n\tX-Evil: 1", b"a\0X-Evil: 1", b"a\x0bX-Evil: 1",
])  # fmt: skip
def test_no_value_becomes_a_line_of_its_own(value: bytes) -> None:
    for lines in heads_at_engine(Settings(), request("/v1/chat/completions", b"tracestate: " + value)):
        assert not any(line.lower().startswith(b"x-evil") or b"\0" in line for line in lines)
        assert len(lines) <= len(OWN) + 2


def test_a_response_is_asked_for_with_the_headers_too() -> None:
    engines: list[bytes] = []

    async def script(connection: EngineConnection) -> None:
        while True:
            engines.append(await connection.request())
            await connection.say(REPLY)

    async def scenario() -> None:
        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as worker:
            create = json.dumps({"model": "tiny", "input": "x"}).encode()
            async with StrictClient(worker.port) as client:
                client.send(request("/v1/responses").replace(BODY, create).replace(
                    b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % len(create)
                ))  # fmt: skip
                assert (await client.answer()).status == 200
                kept = json.loads(engines[0].partition(b"\r\n\r\n")[2])["request_id"]
                client.send(
                    f"GET /v1/responses/{kept}?include=x HTTP/1.1\r\nHost: g\r\ntracestate: a=1\r\n\r\n".encode()
                )
                assert (await client.answer()).body == b"{}"
            first, *lines = engines[1].partition(b"\r\n\r\n")[0].split(b"\r\n")
            assert first == f"GET /v1/responses/{kept}?include=x HTTP/1.1".encode()
            assert b"tracestate: a=1" in lines
            await worker.until_idle()

    uvloop.run(scenario())
