"""Clients that take much and give nothing: they end by themselves, and those beside them notice nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway
from images import text_chat
from processes import wait_until
from raw_client import RawConnection, post

MakeGateway = Callable[..., Gateway]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LONG_STREAM = post(json.dumps(text_chat(stream=True, max_tokens=30_000, ignore_eos=True)).encode())
UNREAD_STREAM = post(
    json.dumps(text_chat(stream=True, max_tokens=30_000, ignore_eos=True, logprobs=True, top_logprobs=20)).encode()
)
"""Of a size that no kernel keeps for a client."""
MEBIBYTE = 1024 * 1024


def worker_of(gateway: Gateway) -> psutil.Process:
    """The gateway's only worker process."""
    (worker,) = [
        child
        for child in psutil.Process(gateway.process.pid).children(recursive=True)
        if any("pymotor.coordinator.worker_control" in part for part in child.cmdline())
    ]
    return worker


def legs_open(gateway: Gateway) -> int:
    """Connections of the worker to its engines."""
    ports = {gateway.engines[name].port for name in gateway.names}
    connections = worker_of(gateway).net_connections("tcp")
    return sum(1 for found in connections if found.raddr and found.raddr.port in ports)


def kept_by_kernel(port: int) -> int:
    """Bytes that connections of a server at this port, closed ones included, have not sent."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[0], 16) for row in rows if int(row[1].rpartition(":")[2], 16) == port)


@pytest.fixture(scope="module")
def guarded(engines: Engines) -> Iterator[Gateway]:
    """A gateway with one worker and little patience. Afterwards it holds nothing."""
    config = {"http_config": {"header_limit_bytes": 8192, "header_timeout": 3, "body_idle_timeout": 3}}
    with Gateway(engines, ["union-0"], config=config, label="guarded") as running:
        yield running
        running.wait_until_idle()
        wait_until(lambda: legs_open(running) == 0, "no connection to an engine is left")
        assert "Traceback" not in running.process.log.read_text()


@pytest.fixture
def served(guarded: Gateway) -> Iterator[Callable[[], None]]:
    """Asks as a well-behaved client would; after the test the ledger is zero and the client still served."""

    def ask() -> None:
        assert ask_one(guarded.url, text_chat()).status == 200

    yield ask
    ask()
    guarded.wait_until_idle()


def test_clients_that_do_not_read(guarded: Gateway, served: Callable[[], None]) -> None:
    worker = worker_of(guarded)
    served()
    before = worker.memory_info().rss
    with contextlib.ExitStack() as opened:
        readers = [opened.enter_context(RawConnection(guarded.port)) for _ in range(8)]
        for reader in readers:
            reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            reader.send(UNREAD_STREAM)
        wait_until(lambda: sum(count for _, count in guarded.loads().values()) == 8, "all eight are being answered")
        served()
        guarded.wait_until_idle(60)
        assert worker.memory_info().rss - before < 64 * MEBIBYTE
        wait_until(lambda: not kept_by_kernel(guarded.port), "the kernel keeps nothing for them")
        for reader in readers:
            assert not reader.rest().endswith(b"0\r\n\r\n"), "a stream that was broken off does not look whole"


def test_clients_that_read_slowly_get_everything(guarded: Gateway, served: Callable[[], None]) -> None:
    with RawConnection(guarded.port) as reader:
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.send(LONG_STREAM)
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            piece = reader.socket.recv(32768)
            assert piece, "closed on a client that reads"
            received += piece
            if len(received) % 50 == 0:
                served()
        assert b"data: [DONE]\n\n" in received


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /v1/ch", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{", CHUNKED, CHUNKED + b"5\r\nhel",
     CHUNKED + b"0\r\nX: "],
    ids=["nothing", "half a line", "half a head", "half a body", "no chunk", "half a chunk", "half a trailer"],
)  # fmt: skip
def test_requests_that_are_never_whole(guarded: Gateway, served: Callable[[], None], begun: bytes) -> None:
    with contextlib.ExitStack() as opened:
        clients = []
        for _ in range(100):
            clients.append(opened.enter_context(RawConnection(guarded.port)))
            clients[-1].send(begun)
        served()
        for client in clients:
            received = client.rest()
            assert received.startswith(b"HTTP/1.1 408 ") or (not received and not begun)


def test_large_bodies_that_do_not_end(engines: Engines, make_gateway: MakeGateway) -> None:
    """Together they may not take the memory: who comes last is sent away, and what they held is free at their end."""
    gateway = make_gateway(engines, "union-0", config={"http_config": {"arriving_limit_bytes": 64 * MEBIBYTE}})
    length = b"Content-Length: %d\r\n\r\n" % (64 * MEBIBYTE)
    with contextlib.ExitStack() as opened:
        statuses = []
        for patience in (0.2, 0.2, 60):
            client = opened.enter_context(RawConnection(gateway.port))
            with contextlib.suppress(ConnectionError):
                client.send(HEAD + length, bytes(30 * MEBIBYTE))
            assert ask_one(gateway.url, text_chat()).status == 200
            client.socket.settimeout(patience)
            try:
                reply = client.reply()
                assert reply.json()["error"]["code"] == "service_unavailable"
                statuses.append(reply.status)
            except TimeoutError:
                statuses.append(None)
        assert statuses == [None, None, 503]
    large = text_chat("large", metadata={"note": "x" * (50 * MEBIBYTE)})
    wait_until(lambda: ask_one(gateway.url, large).status == 200, "there is room for a large body again")


def test_a_head_byte_by_byte_has_its_time_too(guarded: Gateway, served: Callable[[], None]) -> None:
    """Each byte comes soon, the head never."""
    with RawConnection(guarded.port) as client:
        client.socket.settimeout(0.1)
        received = b""
        client.send(HEAD)
        while not received:
            client.send(b"X")
            with contextlib.suppress(TimeoutError):
                received = client.socket.recv(65536)
        assert received.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 431 "))


@pytest.mark.parametrize(
    "endless",
    [b"X-Header: " + b"y" * 100 + b"\r\n", b"y" * 100],
    ids=["trailers", "one trailer"],
)
def test_endless_trailers(guarded: Gateway, served: Callable[[], None], endless: bytes) -> None:
    with RawConnection(guarded.port) as client:
        client.send(CHUNKED, b"5\r\nhello\r\n0\r\n", b"X-First: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.send(endless)
        assert client.reply().status == 431
        assert client.rest() == b""


def test_trailers_change_nothing(guarded: Gateway, served: Callable[[], None]) -> None:
    body = json.dumps(text_chat()).encode()
    trailers = b"Content-Type: text/plain\r\nX-Request-Id: other\r\nX-data-parallel-rank: 0\r\n"
    head = CHUNKED.replace(b"Host", b"X-Request-Id: mine\r\nHost")
    with RawConnection(guarded.port) as client:
        client.send(head, b'%x;a="b"\r\n%b\r\n0\r\n%b\r\n' % (len(body), body, trailers))
        reply = client.reply()
        assert (reply.status, reply.headers["x-request-id"]) == (200, "mine")


def test_a_mistake_behind_good_requests_does_not_cost_their_answers(
    guarded: Gateway, served: Callable[[], None]
) -> None:
    with RawConnection(guarded.port) as client:
        client.send(post(json.dumps(text_chat()).encode()) * 3, b"Content-Length: nonsense\r\n\r\n")
        assert [client.reply().status for _ in range(4)] == [200, 200, 200, 400]
        assert client.rest() == b""


def test_a_flood_of_requests_without_waiting(guarded: Gateway, served: Callable[[], None]) -> None:
    """Answered in order as far as they are taken; what is more ends the connection with a reason."""
    with RawConnection(guarded.port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n" * 3000, HEAD + b"Content-Length: 1\r\n\r\n")
        served()
        statuses = []
        with contextlib.suppress(ConnectionError):
            while True:
                statuses.append(client.reply().status)
    assert len(statuses) > 1000
    assert set(statuses[:-1]) == {200}
    assert statuses[-1] in (408, 429)


def test_offers_of_other_protocols_in_a_row(guarded: Gateway, served: Callable[[], None]) -> None:
    offer = b"GET /health HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with RawConnection(guarded.port) as client:
        client.send(offer * 500)
        assert [client.reply().status for _ in range(500)] == [200] * 500


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET http://elsewhere.example HTTP/1.1\r\nHost: g\r\n\r\n", 404),
        (b"GET http://elsewhere.example/health HTTP/1.1\r\nHost: g\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: g\r\n\r\n", 404),
    ],
)  # fmt: skip
def test_odd_heads(guarded: Gateway, served: Callable[[], None], wire: bytes, status: int) -> None:
    with RawConnection(guarded.port) as client:
        client.send(wire)
        assert client.reply().status == status


def test_ten_thousand_idle_connections(engines: Engines, make_gateway: MakeGateway) -> None:
    """As many as the limit on open files lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard * 3 // 4 - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)) if hard > 0 else 20_000, hard))
    gateway = make_gateway(engines, "union-0")
    worker = worker_of(gateway)
    files = worker.num_fds()
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 60))
        wait_until(lambda: worker.num_fds() >= files + count, f"{count} connections are open")
        for _ in range(20):
            assert ask_one(gateway.url, text_chat()).status == 200
        found = ask_one(gateway.url, text_chat(stream=True))
        assert found.status == 200
        assert found.done
    wait_until(lambda: worker.num_fds() <= files + 8, "what clients closed is closed")
    assert ask_one(gateway.url, text_chat()).status == 200
    gateway.wait_until_idle()
