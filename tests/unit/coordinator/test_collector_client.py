"""How spans come to a collector: compressed, with headers, over TLS, again where that helps, and in time."""

from __future__ import annotations

import gzip
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

import certificates
from free_ports import free_port
from pymotor.coordinator.tracing.collector_client import TRIES, CollectorClient, NotTaken
from pymotor.coordinator.tracing.collector_settings import CollectorSettings, collector_settings
from pymotor.coordinator.tracing.partial_success import PartialSuccess, partial_success

needs_openssl = pytest.mark.skipif(certificates.OPENSSL is None, reason="there is no openssl here")
REQUEST = b"spans " * 1000
PATIENT = 60.0


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    breaks_off: bool = False
    """Whether the connection ends without an answer."""


class ScriptedCollector:
    """Answers as `answers` say, the last of them again and again. Use as a context manager."""

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers) or [Answer()]
        self.asked: list[Asked] = []
        self.connections = 0
        self.was_asked = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                collector.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                collector.asked.append(Asked(self.path, headers, body))
                answer = collector.answers.pop(0) if len(collector.answers) > 1 else collector.answers[0]
                if answer.breaks_off:
                    self.close_connection = True
                else:
                    self.send_response(answer.status)
                    for name, value in (*answer.headers, ("content-length", str(len(answer.body)))):
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body)
                collector.was_asked.set()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            # What a handshake has to say is the client's.
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ScriptedCollector:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class MakeClient(Protocol):
    def __call__(self, settings: CollectorSettings, tries: int = TRIES) -> CollectorClient: ...


@pytest.fixture
def client() -> Iterator[MakeClient]:
    with ExitStack() as closing:

        def make(settings: CollectorSettings, tries: int = TRIES) -> CollectorClient:
            made = CollectorClient(settings, tries)
            closing.callback(made.close)
            return made

        yield make


def settings(url: str, **environment: str) -> CollectorSettings:
    found, troubles = collector_settings(url, environment)
    assert troubles == []
    return replace(found, seconds=PATIENT)


# -- what is sent


def test_what_is_sent(client: MakeClient) -> None:
    with ScriptedCollector() as collector:
        sending = client(settings(collector.url))
        assert sending.send(REQUEST) is None
        assert sending.send(b"more") is None
        assert [asked.body for asked in collector.asked] == [REQUEST, b"more"]
        assert collector.connections == 1
        path, headers, _ = collector.asked[0]
        assert path == "/v1/traces"
        assert headers["content-type"] == "application/x-protobuf"
        assert headers["user-agent"].startswith("PyMotor-OTLP-Exporter-Python/")
        assert "content-encoding" not in headers
        assert "authorization" not in headers


@pytest.mark.parametrize(("word", "decompress"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_compressed(client: MakeClient, word: str, decompress: Callable[[bytes], bytes]) -> None:
    with ScriptedCollector() as collector:
        client(settings(collector.url, OTEL_EXPORTER_OTLP_COMPRESSION=word)).send(REQUEST)
        ((_, headers, body),) = collector.asked
        assert headers["content-encoding"] == word
        assert len(body) < len(REQUEST)
        assert decompress(body) == REQUEST


def test_headers_and_password(client: MakeClient) -> None:
    with ScriptedCollector() as collector:
        url = collector.url.replace("//", "//us%40er:pass%3Aword@")
        said = settings(f"{url}/otlp", OTEL_EXPORTER_OTLP_HEADERS="x-tenant=a%20b,x-name=%C3%BC,user-agent=me")
        client(said).send(REQUEST)
        ((path, headers, _),) = collector.asked
        assert path == "/otlp"
        assert (headers["x-tenant"], headers["user-agent"]) == ("a b", "me")
        assert headers["x-name"].encode("latin-1") == "ü".encode()
        assert headers["authorization"] == "Basic dXNAZXI6cGFzczp3b3Jk"
        assert "pass" not in repr(said) + said.where
        assert "a b" not in repr(said)


def test_a_proxy(client: MakeClient) -> None:
    with ScriptedCollector() as proxy:
        known = proxy.url.replace("//", "//me:secret@")
        said = settings("http://collector.invalid:4318", http_proxy=known)
        client(said).send(REQUEST)
        ((path, headers, body),) = proxy.asked
        assert path == "http://collector.invalid:4318/v1/traces"
        assert headers["proxy-authorization"].startswith("Basic ")
        assert body == REQUEST
        assert "secret" not in repr(said)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://me:secret@[::1"])
def test_a_proxy_that_is_none(client: MakeClient, proxy: str) -> None:
    sending = client(CollectorSettings("http://127.0.0.1:1/v1/traces", "there", proxy=proxy))
    with pytest.raises(NotTaken, match="the proxy that the environment names cannot be used") as told:
        sending.send(REQUEST)
    assert "secret" not in str(told.value)


# -- what is tried again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("after", ["0", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_what_may_pass_is_tried_again(client: MakeClient, status: int, after: str) -> None:
    busy = Answer(status, (("retry-after", after),))
    with ScriptedCollector(busy, busy, Answer()) as collector:
        assert client(settings(collector.url)).send(REQUEST) is None
        assert [asked.body for asked in collector.asked] == [REQUEST] * 3


def test_not_for_ever(client: MakeClient) -> None:
    with ScriptedCollector(Answer(503, (("retry-after", "0"),))) as collector:
        with pytest.raises(NotTaken, match="it answers 503"):
            client(settings(collector.url)).send(REQUEST)
        assert len(collector.asked) == TRIES


def test_not_when_it_would_be_too_late(client: MakeClient) -> None:
    with ScriptedCollector(Answer(503, (("retry-after", "3600"),))) as collector:
        with pytest.raises(NotTaken, match="it answers 503"):
            client(settings(collector.url)).send(REQUEST)
        assert len(collector.asked) == 1


@pytest.mark.parametrize("after", ["soon", "nan", "-5", ""])
def test_a_retry_after_that_is_none(client: MakeClient, after: str) -> None:
    with ScriptedCollector(Answer(503, (("retry-after", after),)), Answer()) as collector:
        assert client(settings(collector.url)).send(REQUEST) is None
        assert len(collector.asked) == 2


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 413, 500, 501])
def test_what_does_not_pass_is_not_tried_again(client: MakeClient, status: int) -> None:
    elsewhere = Answer(status, (("location", "/elsewhere"), ("retry-after", "0")))
    with ScriptedCollector(elsewhere, Answer()) as collector:
        with pytest.raises(NotTaken, match=f"it answers {status}"):
            client(settings(collector.url)).send(REQUEST)
        assert len(collector.asked) == 1


def test_a_connection_that_was_closed_meanwhile(client: MakeClient) -> None:
    with ScriptedCollector(Answer(), Answer(breaks_off=True), Answer()) as collector:
        sending = client(settings(collector.url))
        sending.send(REQUEST)
        assert sending.send(b"more") is None
        assert [asked.body for asked in collector.asked] == [REQUEST, b"more", b"more"]
        assert collector.connections == 2


def test_nobody_listens(client: MakeClient) -> None:
    with pytest.raises(NotTaken, match="refused"):
        client(settings(f"http://127.0.0.1:{free_port()}"), 1).send(REQUEST)


def test_silence(client: MakeClient) -> None:
    going_on = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            going_on.wait()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        silent = replace(settings(f"http://127.0.0.1:{server.server_address[1]}"), seconds=0.2)
        with pytest.raises(NotTaken, match="it does not answer in time"):
            client(silent).send(REQUEST)
    finally:
        going_on.set()
        server.shutdown()
        server.server_close()


def test_giving_up_while_it_waits(client: MakeClient) -> None:
    with ScriptedCollector(Answer(503, (("retry-after", "3000"),))) as collector:
        sending = client(replace(settings(collector.url), seconds=3600.0))
        told: list[NotTaken] = []

        def send() -> None:
            try:
                sending.send(REQUEST)
            except NotTaken as why:
                told.append(why)

        running = threading.Thread(target=send)
        running.start()
        assert collector.was_asked.wait(60)
        sending.give_up()
        running.join(60)
        assert [str(why) for why in told] == ["it answers 503"]


# -- what it answers


def answered(body: bytes, kind: str = "application/x-protobuf") -> Answer:
    return Answer(200, (("content-type", kind),), body)


def test_a_part_is_rejected(client: MakeClient) -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 300
    response.partial_success.error_message = "zu groß"
    with ScriptedCollector(answered(response.SerializeToString())) as collector:
        assert client(settings(collector.url)).send(REQUEST) == PartialSuccess(300, "zu groß")
        assert len(collector.asked) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/x-protobuf"),
        (ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf"),
        (b"{}", "application/json"),
        (b"\x0a\x02\x08\x01", "text/plain"),
        (b"no protobuf", "application/x-protobuf"),
        (b"\x0a\x02\x08\x01" + b"\0" * 100_000, "application/x-protobuf"),
    ],
)
def test_it_says_nothing_against_it(client: MakeClient, body: bytes, kind: str) -> None:
    with ScriptedCollector(answered(body, kind)) as collector:
        sending = client(settings(collector.url))
        assert sending.send(REQUEST) is None
        assert sending.send(REQUEST) is None


@pytest.mark.parametrize("rejected", [0, 1, 2**31, 2**63 - 1, -1])
@pytest.mark.parametrize("message", ["", "x", "long " * 100])
def test_reading_what_is_rejected(rejected: int, message: str) -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    # Fields of a later version are passed over.
    body = b"\x10\x05\x19" + b"8" * 8 + b"\x25" + b"4" * 4 + b"\x2a\x01x" + response.SerializeToString()
    assert partial_success(body) == (PartialSuccess(rejected, message) if rejected or message else None)


@pytest.mark.parametrize(
    "body", [b"\x0a", b"\x0a\x05x", b"\x0b", b"\x08" + b"\xff" * 10, b"\x0a\x02\x0a\x00", b"\x0a\x02\x10\x01", b"\xff"]
)
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type|cut off|no end|another type"):
        partial_success(body)


# -- TLS


def door(shown: certificates.Certificate, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert_file, shown.key_file)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


@needs_openssl
def test_tls_with_certificates_of_both(client: MakeClient, tmp_path: Path) -> None:
    authority = certificates.make_ca(tmp_path / "ca")
    own = certificates.make_certificate(authority, tmp_path, "gateway")
    shown = certificates.make_certificate(authority, tmp_path, "collector")
    with ScriptedCollector(tls=door(shown, authority.ca_file)) as collector:
        trusted = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority.ca_file)}
        named = {
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE": str(own.cert_file),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(own.key_file),
        }
        assert client(settings(collector.url, **trusted, **named)).send(REQUEST) is None
        one_file = tmp_path / "both.pem"
        one_file.write_bytes(own.cert_file.read_bytes() + own.key_file.read_bytes())
        joined = {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(one_file)}
        assert client(settings(collector.url, **trusted, **joined)).send(REQUEST) is None
        assert len(collector.asked) == 2
        with pytest.raises(NotTaken):
            client(settings(collector.url, **trusted), 1).send(REQUEST)
        with pytest.raises(NotTaken, match="CERTIFICATE_VERIFY_FAILED"):
            client(settings(collector.url, **named), 1).send(REQUEST)
        assert len(collector.asked) == 2


@needs_openssl
def test_certificates_are_read_again(client: MakeClient, tmp_path: Path) -> None:
    authority = certificates.make_ca(tmp_path / "ca")
    other = certificates.make_ca(tmp_path / "other")
    shown = certificates.make_certificate(authority, tmp_path, "collector")
    trusted = tmp_path / "trusted.pem"
    with ScriptedCollector(tls=door(shown)) as collector:
        sending = client(settings(collector.url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(trusted)), 1)
        with pytest.raises(NotTaken, match=r"trusted\.pem.*No such file"):
            sending.send(REQUEST)
        trusted.write_bytes(other.ca_file.read_bytes())
        with pytest.raises(NotTaken, match="CERTIFICATE_VERIFY_FAILED"):
            sending.send(REQUEST)
        trusted.write_bytes(authority.ca_file.read_bytes())
        assert sending.send(REQUEST) is None
