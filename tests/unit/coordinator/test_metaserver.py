"""Callbacks of decode engines at a worker's own port: who is heard, who is not, and what each is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from pymotor.coordinator.callbacks import CALLBACK_PATH, Callbacks
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.metaserver import BODY_LIMIT, Metaserver
from pymotor.coordinator.settings import CorsSettings

JSON = "Content-Type: application/json\r\n"


class Reply(NamedTuple):
    status: int
    head: str
    body: dict[str, object]


class Served(NamedTuple):
    """A metaserver and how to reach it."""

    callbacks: Callbacks
    metaserver: Metaserver
    port: int

    async def send(
        self, body: bytes, *, path: bytes = b"", method: str = "POST", headers: str = JSON, length: int | None = None
    ) -> Reply:
        """One request on a connection of its own; its path is the right one by default."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            target = (path or self.callbacks.path).decode()
            size = len(body) if length is None else length
            head = (
                f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {size}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            received = await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()
        answered, _, text = received.partition(b"\r\n\r\n")
        return Reply(int(answered.split(b" ")[1]), answered.decode(), json.loads(text) if text else {})


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    callbacks = Callbacks(3, asyncio.get_running_loop())
    heads = ResponseHeads(server_timing=False, cors=CorsSettings())
    metaserver = Metaserver(callbacks, heads, SharedState(), 5.0)
    listener = metaserver.listen("127.0.0.1", 0, "127.0.0.1")
    port = listener.getsockname()[1]
    await metaserver.serve(listener)
    yield Served(callbacks, metaserver, port)
    metaserver.close()


def callback(request_id: str = "chatcmpl-1", **fields: object) -> bytes:
    return json.dumps({"request_id": request_id, "remote_port": 1, **fields}).encode()


def test_the_url_names_worker_and_secret() -> None:
    async def paths() -> list[bytes]:
        return [Callbacks(3, asyncio.get_running_loop()).path for _ in range(2)]

    first, second = asyncio.run(paths())
    assert first.startswith(CALLBACK_PATH + b"3.")
    assert len(first.partition(b".")[2]) == 32
    assert first != second


async def test_a_callback_is_answered_when_prefill_is_through(served: Served) -> None:
    assert served.callbacks.url == f"http://127.0.0.1:{served.port}{served.callbacks.path.decode()}"
    with served.callbacks.expect(["chatcmpl-1"]) as awaited:
        replies = [asyncio.ensure_future(served.send(callback(turn=turn))) for turn in range(2)]
        await asyncio.wait_for(awaited.arrived, 60)
        assert not any(reply.done() for reply in replies)
        awaited.settle(True)
        assert [(await reply).body for reply in replies] == [{"status": "ok"}] * 2
        assert (await served.send(callback())).status == 200
    assert (await served.send(callback())).status == 404
    assert not len(served.callbacks)


async def test_the_first_body_counts(served: Served) -> None:
    with served.callbacks.expect(["chatcmpl-1"]) as awaited:
        awaited.take("chatcmpl-1", b"first")
        awaited.take("chatcmpl-1", b"second")
        assert awaited.bodies == {"chatcmpl-1": b"first"}


async def test_all_children_are_waited_for(served: Served) -> None:
    with served.callbacks.expect(["cmpl-1-0", "cmpl-1-1"]) as awaited:
        first = asyncio.ensure_future(served.send(callback("cmpl-1-1")))
        while not awaited.bodies:  # noqa: ASYNC110  nobody tells of a part
            await asyncio.sleep(0.001)
        assert not awaited.arrived.done()
        second = asyncio.ensure_future(served.send(callback("cmpl-1-0")))
        await asyncio.wait_for(awaited.arrived, 60)
        awaited.settle(False)
        assert [(await reply).status for reply in (first, second)] == [502, 502]


async def test_whoever_waits_is_told_when_the_request_ends(served: Served) -> None:
    with served.callbacks.expect(["chatcmpl-1"]) as awaited:
        reply = asyncio.ensure_future(served.send(callback()))
        await asyncio.wait_for(awaited.arrived, 60)
    assert (await reply).status == 502


@pytest.mark.parametrize("path", [
    b"/v1/metaserver/3.00000000000000000000000000000000",
    b"/v1/metaserver/3.",
    b"/v1/metaserver/3",
    b"/v1/metaserver/",
    b"/v1/metaserver/4.00000000000000000000000000000000",
    b"/v1/metaserver/99999999999999999999.0",
    b"/v1/metaserver/-1.0",
    b"/v1/chat/completions",
    b"/",
])  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_strangers_learn_nothing(served: Served, path: bytes, method: str) -> None:
    with served.callbacks.expect(["chatcmpl-1"]) as awaited:
        reply = await served.send(callback(), path=path, method=method)
        assert reply.status == 404
        assert served.callbacks.path.partition(b".")[2].decode() not in str(reply)
        assert not awaited.bodies


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "GET"}, 405),
        ({"method": "PUT"}, 405),
        ({"headers": ""}, 415),
        ({"headers": "Content-Type: text/plain\r\n"}, 415),
        ({"body": b"{"}, 400),
        ({"body": b"[]"}, 400),
        ({"body": b"{}"}, 400),
        ({"body": b'{"request_id": 7}'}, 400),
        ({"body": b""}, 400),
        ({"body": callback("chatcmpl-2")}, 404),
        ({"length": BODY_LIMIT + 1}, 413),
    ],
)
async def test_only_callbacks_are_taken(served: Served, changes: dict[str, object], status: int) -> None:
    with served.callbacks.expect(["chatcmpl-1"]) as awaited:
        body = changes.pop("body", callback())
        assert isinstance(body, bytes)
        reply = await served.send(body, **changes)  # type: ignore[arg-type]
        assert reply.status == status
        assert ("Allow: POST" in reply.head) == (status == 405)
        assert not awaited.bodies


async def test_a_taken_port_is_passed_over(served: Served) -> None:
    other = Callbacks(4, asyncio.get_running_loop())
    heads = ResponseHeads(server_timing=False, cors=CorsSettings())
    metaserver = Metaserver(other, heads, SharedState(), 5.0)
    with metaserver.listen("127.0.0.1", served.port, "::1") as listener:
        assert listener.getsockname()[1] != served.port
        assert other.url.startswith("http://[::1]:")
