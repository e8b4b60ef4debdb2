"""HTTP/1.1 toward clients: limits, framing, smuggling, pipelining, old and odd clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import plain_http
import pytest
from answers import ask_one, read_stream
from fleet_under_test import Engines, Gateway
from images import text_chat, vision_chat
from raw_client import RawConnection, RawReply, post

MakeGateway = Callable[..., Gateway]
BODY = json.dumps(text_chat()).encode()
MEBIBYTE = 1024 * 1024


@pytest.fixture
def raw(gateway: Gateway) -> Iterator[RawConnection]:
    """A connection to the gateway; afterwards it still serves."""
    with RawConnection(gateway.port) as connection:
        yield connection
    assert ask_one(gateway.url, text_chat()).status == 200
    gateway.wait_until_idle()


@pytest.fixture(scope="module")
def strict(engines: Engines) -> Iterator[Gateway]:
    """A gateway with small limits and CORS."""
    config = {
        "http_config": {
            "body_limit_bytes": MEBIBYTE,
            "header_limit_bytes": 8192,
            "header_timeout": 3,
            "body_idle_timeout": 3,
            "cors": {"allow_origins": ["https://chat.example.org"]},
        }
    }
    with Gateway(engines, ["union-0"], config=config, label="strict") as running:
        yield running


def assert_refusal(reply: RawReply, status: int) -> None:
    """An error object with this status."""
    assert reply.status == status, reply
    assert reply.json()["error"]["message"]


def chunked(payload: bytes, size: int = 100) -> bytes:
    """`payload` in chunks."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"


# Limits.


def test_600_megabytes_are_refused_by_their_header(raw: RawConnection) -> None:
    raw.send(HEAD, b"Content-Length: %d\r\n\r\n" % (600 * MEBIBYTE))
    assert_refusal(raw.reply(), 413)


def test_a_long_body_is_refused_at_once_even_with_expect(strict: Gateway) -> None:
    with RawConnection(strict.port) as connection:
        connection.send(HEAD, b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (MEBIBYTE + 1))
        assert_refusal(connection.reply(), 413)


def test_chunks_over_the_limit_are_refused(strict: Gateway) -> None:
    with RawConnection(strict.port) as connection:
        connection.send(HEAD, b"Transfer-Encoding: chunked\r\n\r\n")
        connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        for _ in range(16):
            connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert_refusal(connection.reply(), 413)


def test_a_body_just_within_the_limit_is_taken(strict: Gateway) -> None:
    room = MEBIBYTE - len(json.dumps(text_chat("")).encode())
    body = json.dumps(text_chat("x" * room)).encode()
    assert len(body) == MEBIBYTE
    with RawConnection(strict.port) as connection:
        connection.send(post(body))
        assert connection.reply().status == 400, "the engine says it is too long for the model"
        connection.send(post(body + b" "))
        assert_refusal(connection.reply(), 413)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: g\r\nX-Huge: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: g\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: g\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: g\r\nX-Endless: " + b"x" * 100_000,
    ],
    ids=["one header", "many headers", "URL", "never complete"],
)
def test_huge_heads_are_refused(raw: RawConnection, head: bytes) -> None:
    raw.send(head)
    assert_refusal(raw.reply(), 431)


def test_a_client_too_slow_with_its_head(strict: Gateway) -> None:
    with RawConnection(strict.port) as connection:
        connection.send(b"POST /v1/chat/comp")
        assert_refusal(connection.reply(), 408)
        assert connection.rest() == b""


def test_a_client_too_slow_with_its_body(strict: Gateway) -> None:
    with RawConnection(strict.port) as connection:
        connection.send(HEAD, b"Content-Length: 100\r\n\r\n{")
        assert_refusal(connection.reply(), 408)
    strict.wait_until_idle()


def test_a_client_that_says_nothing_is_closed(strict: Gateway) -> None:
    with RawConnection(strict.port) as connection:
        assert connection.rest().startswith((b"HTTP/1.1 408", b"")), "closed, with or without a word"


# Framing.

SECOND = b"GET /hidden HTTP/1.1\r\n\r\n"
SMUGGLING = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length with a sign": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "length in hexadecimal": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "list of lengths": HEAD + b"Content-Length: 5, 6\r\n\r\nhello",
    "length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "chunk size no number": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk size huge": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "folded header": b"GET /health HTTP/1.1\r\nHost: g\r\nX-A: b\r\n c\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "bare line feed": b"GET /health HTTP/1.1\nHost: g\n\n",
    "no version": b"GET /health\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
    "NUL in a header": b"GET /health HTTP/1.1\r\nHost: g\r\nX-A: a\0b\r\n\r\n",
    "carriage return in a header": b"GET /health HTTP/1.1\r\nHost: g\r\nX-A: a\rb\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", SMUGGLING)
def test_ambiguous_framing_is_refused_and_the_connection_closed(raw: RawConnection, case: str) -> None:
    raw.send(SMUGGLING[case])
    reply = raw.reply()
    assert 400 <= reply.status < 600
    assert reply.status in (400, 413, 431, 501), reply
    assert reply.json()["error"]["message"]
    assert raw.rest() == b"", "nothing after the refusal: no second request was read"


def test_a_chunked_request_body(raw: RawConnection) -> None:
    raw.send(HEAD, b"Transfer-Encoding: chunked\r\n\r\n", chunked(BODY, 7))
    assert raw.reply().json()["choices"][0]["finish_reason"]


def test_a_request_byte_by_byte(raw: RawConnection) -> None:
    for byte in post(BODY):
        raw.send(bytes((byte,)))
    assert raw.reply().status == 200


def test_expect_100_continue(raw: RawConnection) -> None:
    raw.send(HEAD, b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert raw.reply().status == 100
    raw.send(BODY)
    assert raw.reply().status == 200


def test_pipelined_requests_are_answered_in_order(raw: RawConnection) -> None:
    bodies = [json.dumps(text_chat(f"number {n}", max_tokens=1 + n)).encode() for n in range(6)]
    raw.send(*(post(body, f"X-Request-Id: pipelined-{n}") for n, body in enumerate(bodies)))
    replies = [raw.reply() for _ in bodies]
    assert [reply.headers["x-request-id"] for reply in replies] == [f"pipelined-{n}" for n in range(6)]
    assert [reply.json()["usage"]["completion_tokens"] <= 1 + n for n, reply in enumerate(replies)] == [True] * 6


def test_a_hundred_pipelined_requests(raw: RawConnection) -> None:
    raw.send(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n" * 100)
    assert [raw.reply().status for _ in range(100)] == [200] * 100


def test_http_10(gateway: Gateway) -> None:
    expected = ask_one(gateway.url, text_chat())
    for stream in (False, True):
        body = json.dumps(text_chat(stream=stream)).encode()
        with RawConnection(gateway.port) as connection:
            connection.send(post(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
            reply = connection.reply()
            assert "transfer-encoding" not in reply.headers
            assert connection.rest() == b""
        if stream:
            found = read_stream(reply.body.decode(), httpx.Headers())
            assert found.done
            assert found.choices == expected.choices
        else:
            assert reply.json()["choices"][0]["token_ids"] == expected.choices[0].token_ids


def test_connection_close_is_kept(raw: RawConnection) -> None:
    raw.send(post(BODY, "Connection: close"))
    assert raw.reply().status == 200
    assert raw.rest() == b""


def test_an_upgrade_offered_beside_a_request_is_passed_over(raw: RawConnection) -> None:
    """Java's HTTP client offers h2c with every first request; RFC 9110 lets a server ignore it."""
    raw.send(post(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"))
    assert raw.reply().status == 200


def test_a_client_that_shuts_its_sending_side(gateway: Gateway) -> None:
    """It gets its answer or a closed connection, and nothing stays behind."""
    with RawConnection(gateway.port) as connection:
        connection.send(post(BODY))
        connection.socket.shutdown(1)
        received = connection.rest()
    assert not received or received.startswith(b"HTTP/1.1 200")
    gateway.wait_until_idle()


# Methods and paths.


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("GET", "/v1/chat/completions", "POST"),
    ("DELETE", "/v1/completions", "POST"),
    ("PUT", "/v1/completions", "POST"),
    ("POST", "/v1/models", "GET, HEAD"),
    ("POST", "/health", "GET, HEAD"),
])  # fmt: skip
def test_wrong_methods(gateway: Gateway, method: str, path: str, allow: str) -> None:
    reply = plain_http.request(method, gateway.url + path, timeout=60)
    assert reply.status_code == 405
    assert reply.headers["allow"] == allow
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat/completions/", "/metrics", "/v1/nothing", "/%2e%2e/etc", "/sim/state"]
)
def test_unknown_paths(gateway: Gateway, path: str) -> None:
    reply = plain_http.post(gateway.url + path, json={}, timeout=60)
    assert reply.status_code == 404
    assert reply.json()["error"]["message"]


def test_absolute_and_odd_targets(raw: RawConnection) -> None:
    raw.send(b"GET http://elsewhere.example/latest/meta-data HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
    assert raw.reply().status == 404, "the gateway is no open proxy"
    raw.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert raw.reply().status in (400, 404, 405, 501)


def test_head(raw: RawConnection) -> None:
    for path in (b"/health", b"/v1/models"):
        raw.send(b"HEAD " + path + b" HTTP/1.1\r\nHost: g\r\n\r\n")
        reply = raw.reply(head_only=True)
        assert reply.status == 200
        assert int(reply.headers["content-length"]) > 0
    raw.send(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
    assert raw.reply().status == 200, "no body came with the answers to HEAD"


# CORS.


def test_cors_preflight_for_pages_that_may(strict: Gateway) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = plain_http.options(
        f"{strict.url}/v1/chat/completions", headers={"Origin": "https://chat.example.org", **asked}
    )
    assert allowed.status_code in (200, 204)
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert "POST" in allowed.headers["access-control-allow-methods"]
    other = plain_http.options(f"{strict.url}/v1/chat/completions", headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in other.headers
    for stream in (False, True):
        said = plain_http.post(
            f"{strict.url}/v1/chat/completions",
            json=text_chat(stream=stream),
            headers={"Origin": "https://chat.example.org"},
            timeout=60,
        )
        assert said.headers["access-control-allow-origin"] == "https://chat.example.org"


def test_no_cors_unless_configured(gateway: Gateway) -> None:
    reply = plain_http.post(
        f"{gateway.url}/v1/chat/completions", json=text_chat(), headers={"Origin": "https://a.example"}, timeout=60
    )
    assert not [name for name in reply.headers if name.startswith("access-control")]


# Ids.


def test_the_clients_id_is_echoed_and_the_engine_gets_another(gateway: Gateway) -> None:
    for stream in (False, True):
        reply = plain_http.post(
            f"{gateway.url}/v1/chat/completions",
            json=vision_chat(3, stream=stream),
            headers={"X-Request-Id": "clients-own-id"},
            timeout=60,
        )
        assert reply.headers["x-request-id"] == "clients-own-id"
        assert "clients-own-id" not in reply.text


@pytest.mark.parametrize("identifier", ["a\tb", "\xe4\xf6\xfc", "x" * 5000])
def test_odd_ids_break_nothing(raw: RawConnection, identifier: str) -> None:
    head = post(BODY).replace(b"\r\n\r\n", b"\r\nX-Request-Id: " + identifier.encode("latin-1") + b"\r\n\r\n", 1)
    raw.send(head)
    assert raw.reply().status in (200, 400)


def test_keep_alive_serves_many_requests(raw: RawConnection) -> None:
    for _ in range(20):
        raw.send(post(BODY))
        assert raw.reply().status == 200
