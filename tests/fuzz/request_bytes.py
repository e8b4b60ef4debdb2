"""HTTP requests that are right, nearly right, and wrong in the ways that matter: what attackers and bad clients send.

A request is built of named parts, each of which can go wrong by itself, so that most inputs get far into a parser;
then some of the bytes are changed whatever they mean.
"""

from __future__ import annotations

import random
from itertools import pairwise

_METHODS = (b"GET", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"PRI", b"SOURCE", b"get", b"FOO", b"DELETE", b"QUERY")
_TARGETS = (
    b"/health", b"/health?a=b", b"/", b"*", b"http://g/health", b"http://g",
    b"/a#b", b"/%00", b"//x", b"", b"/a b", b"/\xc3\xa9", b"g:443", b"/\x7f", b"/a\tb", b"health", b"/../x",
)  # fmt: skip
_VERSIONS = (
    b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2",
    b"RTSP/1.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"HTTP/1,1", b"",
)  # fmt: skip
_HEADERS = (
    b"Content-Type: application/json", b"X-Request-Id: a", b"Expect: 100-continue", b"Connection: close",
    b"Connection: keep-alive", b"Connection: close, upgrade", b"Accept: */*", b"X: \xff\xfe", b"X:", b"X: \t y \t",
    b"Trailer: X", b"TE: trailers", b"Cookie: a=b; c=d", b"Content-Encoding: gzip", b"X-Long: " + b"y" * 300,
)  # fmt: skip
_BAD_HEADERS = (
    b"X : y", b" X: y", b"X\t: y", b": y", b"X", b"X: a\0b", b"X: a\rb", b"X: a\nb", b"X: y\r\n folded",
    b"X: y\r\n\tfolded",
    b"X\xff: y", b"X(: y", b"Host: other", b"Host: g, h", b"Host:", b"X: \x01", b"\r\nX: y", b"X: y\r", b"X: a\x7fb",
    b"X: \x0b",
)  # fmt: skip
_LENGTHS = (
    b"+%d", b"-%d", b"0x%x", b"%d, %d", b"%d,%d", b" %d", b"%d ", b"0%d", b"%d.0", b"\t%d", b"%da", b"%d\x0b",
    b"9999999999999999999%d",
    b"", b"%d;a", b"\xb2%d", b"%d\xa0", b"1_%d", b'"%d"',
)  # fmt: skip
_CODINGS = (
    b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"chunked ", b"\tchunked\t", b"chunked,", b",chunked",
    b"chunked, chunked",
    b"chunked, identity", b"identity", b"identity, chunked", b"gzip, chunked", b"chunked;q=1", b"xchunked",
    b"chunke", b"chunked\x0b",
    b"\x0bchunked", b'"chunked"', b"", b"deflate", b"chunked\0", b"cow",
)  # fmt: skip
_CODING_NAMES = (b"Transfer-Encoding", b"Transfer-Encoding", b"transfer-encoding", b"Transfer-Encoding ",
    b"Transfer_Encoding",
                 b"Transfer-Encoding\t", b"X-Transfer-Encoding", b"Transfer-Encodin\xe7")  # fmt: skip
_LENGTH_NAMES = (b"Content-Length", b"Content-Length", b"content-length", b"Content-Length ", b"Content_Length")
_SIZES = (b"%x", b"%X", b"0%x", b"%x ", b" %x", b"+%x", b"-%x", b"0x%x", b"%x;a", b'%x;a="b"', b"%x;", b"%x;a=b;c",
    b"%xg", b"%x\t",
          b"1_%x", b"fffffffffffffffff%x", b"000000000000000000000000%x", b"%x;\n", b"%x\n", b"%x\r", b'%x;a="\r\n"',
          b"", b"%x ; a")  # fmt: skip
_TRAILERS = (
    b"X: y\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: evil\r\n",
    b"X\r\n",
    b" X: y\r\n",
    b"X: \0\r\n",
)
_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"\n\n", b"0\r\n\r\n", b"\xff",
    b"GET / HTTP/1.1\r\nHost: g\r\n\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\x0b", b"5\r\nhello\r\n", b";", b",", b"\x7f",
    b"\x80",
)  # fmt: skip
_BODIES = (
    b"",
    b"{}",
    b"hello",
    b"0\r\n\r\n",
    b"GET /hidden HTTP/1.1\r\nHost: g\r\n\r\n",
    b"\r\n",
    b'{"model":"tiny"}',
    b'{"model":"tiny","messages":[{"role":"user","content":"x"}]}',
)


def request_bytes(chance: random.Random) -> bytes:
    """One to three requests in a row, changed in a few places."""
    data = b"".join(_request(chance) for _ in range(chance.choice((1, 1, 2, 3))))
    for _ in range(chance.choice((0, 0, 0, 1, 1, 3))):
        data = _changed(chance, data)
    return data


def cuts(chance: random.Random, data: bytes) -> list[bytes]:
    """`data` in up to five pieces, or byte by byte."""
    if chance.random() < 0.05:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(chance.choices(range(len(data) + 1), k=chance.randint(0, 4)))
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


def _rare(chance: random.Random, usual: bytes, odd: tuple[bytes, ...], likely: float = 0.08) -> bytes:
    return chance.choice(odd) if chance.random() < likely else usual


def _request(chance: random.Random) -> bytes:
    body = chance.choice(_BODIES)
    headers = [] if chance.random() < 0.04 else [b"Host: g"]
    headers += chance.choices(_HEADERS, k=chance.choice((0, 1, 2)))
    if chance.random() < 0.12:
        headers.append(chance.choice(_BAD_HEADERS))
    if chance.random() < 0.08:
        headers += [b"Upgrade: " + chance.choice((b"h2c", b"websocket", b"")), b"Connection: Upgrade, HTTP2-Settings"]
    framing, wire = _framed(chance, body)
    headers += framing
    chance.shuffle(headers)
    space = _rare(chance, b" ", (b"  ", b"\t", b""), 0.02)
    method = _rare(chance, b"POST", _METHODS, 0.2)
    line = space.join(
        (method, _rare(chance, b"/v1/chat/completions", _TARGETS, 0.15), _rare(chance, b"HTTP/1.1", _VERSIONS))
    )
    end = _rare(chance, b"\r\n", (b"\n", b"\r", b"\r\r\n", b"\n\r\n"), 0.03)
    before = _rare(chance, b"", (b"\r\n", b"\n", b"\r\n\r\n", b" "), 0.03)
    return before + end.join([line, *headers, b"", b""]) + wire


def _framed(chance: random.Random, body: bytes) -> tuple[list[bytes], bytes]:
    """Header lines that say where the body ends, and the body as it goes over the wire."""
    kind = chance.random()
    if kind < 0.2:
        return [], b""
    lengths = [_length(chance, len(body)) for _ in range(_count(chance))]
    if kind < 0.6:
        return lengths, body
    codings = [
        _rare(chance, b"Transfer-Encoding", _CODING_NAMES) + b": " + _rare(chance, b"chunked", _CODINGS, 0.2)
        for _ in range(_count(chance))
    ]
    if kind < 0.68:
        return codings + lengths, chance.choice((body, _chunks(chance, body)))
    return codings, _chunks(chance, body)


def _count(chance: random.Random) -> int:
    return 2 if chance.random() < 0.05 else 1


def _length(chance: random.Random, size: int) -> bytes:
    size = max(0, size + chance.choice((-1, 1, 5))) if chance.random() < 0.05 else size
    return _rare(chance, b"Content-Length", _LENGTH_NAMES) + b": " + _number(chance, b"%d", _LENGTHS, size)


def _number(chance: random.Random, usual: bytes, odd: tuple[bytes, ...], value: int) -> bytes:
    form = _rare(chance, usual, odd, 0.12)
    return form % ((value,) * form.count(b"%")) if b"%" in form else form


def _chunks(chance: random.Random, body: bytes) -> bytes:
    half = chance.randint(0, len(body))
    wire = b""
    for piece in (body[:half], body[half:]):
        if piece:
            end = _rare(chance, b"\r\n", (b"\n", b"", b"\r", b"xx", b"\r\n\r\n"), 0.04)
            wire += _number(chance, b"%x", _SIZES, len(piece)) + b"\r\n" + piece + end
    trailers = b"".join(chance.choices(_TRAILERS, k=_count(chance))) if chance.random() < 0.12 else b""
    return wire + _rare(chance, b"0", (b"00", b"0;a", b"-0", b"0 ", b"", b"0x0"), 0.05) + b"\r\n" + trailers + b"\r\n"


def _changed(chance: random.Random, data: bytes) -> bytes:
    at = chance.randint(0, len(data))
    what = chance.randrange(5)
    if what == 0:
        return data[:at] + chance.choice(_TOKENS) + data[at:]
    if what == 1:
        return data[:at] + data[at + chance.randint(1, 4) :]
    if what == 2:
        return data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]
    if what == 3:
        start = chance.randint(0, at)
        return data[:at] + data[start:at] + data[at:]
    return data[:at]
