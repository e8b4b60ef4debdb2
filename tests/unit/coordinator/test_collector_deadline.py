"""An export ends in time and posts no batch too often, whatever the collector's side of the connection does."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import certificates
from pymotor.coordinator.tracing import collector_client
from pymotor.coordinator.tracing.collector_client import TRIES, CollectorClient, NotTaken
from pymotor.coordinator.tracing.collector_settings import CollectorSettings

REQUEST = b"spans " * 100
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
AN_END = 60.0
Speak = Callable[[socket.socket], None]


class RawCollector:
    """Has `speak` answer each request, byte by byte if it likes. Use as a context manager."""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak
        self.requests: list[bytes] = []
        self.connections = 0
        self.over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1/traces"

    def __enter__(self) -> RawCollector:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        # Closing alone does not wake who accepts.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := _one_request(connection):
                self.requests.append(request)
                self._speak(connection)


def _one_request(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length is not None
    while len(body) < int(length[1]):
        body += connection.recv(65_536)
    return head


@pytest.fixture
def trickling() -> Iterator[Callable[[bytes, bytes], RawCollector]]:
    """Makes a collector that says one thing, and then another again and again for ever."""
    with contextlib.ExitStack() as closing:

        def make(first: bytes, then: bytes) -> RawCollector:
            def speak(connection: socket.socket) -> None:
                connection.sendall(first)
                while not collector.over.wait(0.02):
                    connection.sendall(then)

            collector = closing.enter_context(RawCollector(speak))
            return collector

        yield make


def settings(url: str, seconds: float = AN_END) -> CollectorSettings:
    return CollectorSettings(url, "there", seconds=seconds)


def sent(client: CollectorClient) -> str:
    """What came of sending, in a thread that must end."""
    told: list[str] = []

    def send() -> None:
        try:
            client.send(REQUEST)
            told.append("taken")
        except NotTaken as why:
            told.append(str(why))

    running = threading.Thread(target=send, daemon=True)
    running.start()
    running.join(AN_END)
    assert not running.is_alive(), "the export has no end"
    client.close()
    return told[0]


HEADS = [(b"HTTP/1.1 200 OK\r\nx: ", b"a"), (b"", b"HTTP/1.1 102 Processing\r\n\r\n")]


@pytest.mark.parametrize(("first", "then"), HEADS)
def test_a_head_without_end(trickling: Callable[[bytes, bytes], RawCollector], first: bytes, then: bytes) -> None:
    collector = trickling(first, then)
    assert sent(CollectorClient(settings(collector.url, 0.3))) == "it does not answer in time"
    assert len(collector.requests) == 1


@pytest.mark.parametrize(("first", "then"), [*HEADS, (b"", b"")])
def test_giving_up_ends_a_head_without_end(
    trickling: Callable[[bytes, bytes], RawCollector], first: bytes, then: bytes
) -> None:
    asked = threading.Event()
    collector = trickling(first, then)
    client = CollectorClient(settings(collector.url, 86_400.0))
    told: list[str] = []
    running = threading.Thread(target=lambda: told.append(sent(client)), daemon=True)
    running.start()
    while not collector.requests:
        asked.wait(0.01)
    client.give_up()
    running.join(AN_END)
    assert not running.is_alive()
    assert told != ["taken"]


def test_a_body_without_end_is_of_spans_that_were_taken(trickling: Callable[[bytes, bytes], RawCollector]) -> None:
    collector = trickling(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b"a")
    assert sent(CollectorClient(settings(collector.url, 0.3))) == "taken"
    assert len(collector.requests) == 1


def test_a_body_that_breaks_off_is_of_spans_that_were_taken() -> None:
    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab")
        connection.shutdown(socket.SHUT_RDWR)

    with RawCollector(speak) as collector:
        assert sent(CollectorClient(settings(collector.url))) == "taken"
        assert len(collector.requests) == 1


def test_six_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_client.random, "uniform", lambda *_: 0.0)
    with RawCollector(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as collector:
        assert sent(CollectorClient(settings(collector.url))) == "RemoteProtocolError"
        assert len(collector.requests) == collector.connections == TRIES == 6


def test_what_answers_in_part_is_not_asked_again_at_once() -> None:
    def speak(connection: socket.socket) -> None:
        connection.sendall(OK if len(collector.requests) == 1 else b"HTTP/1.1 2")
        if len(collector.requests) > 1:
            connection.shutdown(socket.SHUT_RDWR)

    with RawCollector(speak) as collector:
        client = CollectorClient(settings(collector.url, 0.7))
        client.send(REQUEST)
        assert sent(client) == "RemoteProtocolError"
        assert len(collector.requests) == 2


@pytest.mark.parametrize(
    "after",
    [
        "Mon, 01 Jan 2024 00:00:00 +99999999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "9" * 5000,
    ],
)
def test_a_retry_after_that_no_clock_has(after: str) -> None:
    def speak(connection: socket.socket) -> None:
        status = b"200 OK" if len(collector.requests) > 1 else b"503 Busy"
        connection.sendall(b"HTTP/1.1 %b\r\nretry-after: %b\r\ncontent-length: 0\r\n\r\n" % (status, after.encode()))

    with RawCollector(speak) as collector:
        assert sent(CollectorClient(settings(collector.url))) in {"taken", "it answers 503"}


@pytest.mark.parametrize("after", [b"0", b"-5", b"Sun, 06 Nov 1994 08:49:37 GMT"])
def test_a_busy_collector_is_left_alone_for_a_moment(after: bytes) -> None:
    # Twenty tries of at least 0.08 seconds have no room in this time.
    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 503 Busy\r\nretry-after: %b\r\ncontent-length: 0\r\n\r\n" % after)

    with RawCollector(speak) as collector:
        # Where time is up amid a try that one has no answer.
        ends = {"it answers 503", "it does not answer in time"}
        assert sent(CollectorClient(settings(collector.url, 1.5), tries=1000)) in ends
        assert 2 <= len(collector.requests) < 20


def test_no_cookies_are_kept_and_no_query_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RawCollector(lambda connection: connection.sendall(OK.replace(b"\r\n", b"\r\nset-cookie: a=b\r\n", 1))) as one:
        client = CollectorClient(settings(one.url + "?key=SECRET"))
        client.send(REQUEST)
        client.send(REQUEST)
        client.close()
        assert not any(b"\r\ncookie" in head.lower() for head in one.requests)
        assert one.connections == 1
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    "url",
    ["http://col..lector:4318", f"http://{'a' * 300}:4318", "http://xn--ü:4318", "http://c:4318/\x7f", "http://[v1.a]"],
)
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(NotTaken, match="cannot be used"):
        CollectorClient(settings(url)).send(REQUEST)


@pytest.mark.parametrize("header", [(b"content-length", b"5"), (b"x", b"a\r\nb"), (b"a b", b"c")])
def test_headers_that_cannot_be_sent(header: tuple[bytes, bytes]) -> None:
    with RawCollector(lambda connection: connection.sendall(OK)) as collector:
        client = CollectorClient(replace(settings(collector.url), headers=(header,)))
        with pytest.raises(NotTaken, match="cannot be used"):
            client.send(REQUEST)
        client.close()


@pytest.mark.skipif(certificates.OPENSSL is None, reason="there is no openssl here")
def test_tls_within_tls_that_trickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = certificates.make_ca(tmp_path / "ca")
    shown = certificates.make_certificate(authority, tmp_path, "proxy")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert_file, shown.key_file)
    reached = threading.Event()
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            plain, _ = listening.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                connection.recv(65_536)
                reached.set()
                # A handshake record of 16 KiB, a byte at a time.
                connection.sendall(b"\x16\x03\x03\x40\x00")
                while not over.wait(0.02):
                    connection.sendall(b"\x02")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        proxy = f"https://127.0.0.1:{listening.getsockname()[1]}"
        told = sent(CollectorClient(replace(settings("https://127.0.0.1:1/v1/traces", 1.0), proxy=proxy)))
        over.set()
    assert told != "taken"
    assert reached.is_set()
