"""What the gateway takes for a request, compared with h11 on the same bytes.

Both must see the same requests with the same bodies in the same places. Where one refuses what the other takes, the
difference is in one of the two tables below, with the reason. None of them moves the end of a request: a difference
there, by which a request could be smuggled past a server in front, fails the test whatever the tables say.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import h11
import pytest
from request_bytes import cuts, request_bytes

from pymotor.coordinator.http.client_request import ClientRequest, Limits, Refused
from pymotor.coordinator.http.request_reader import RequestReader

LIMITS = Limits(head_bytes=65536, body_bytes=10**9, head_time=1.0, body_idle=1.0)

LINE_ENDS = "h11 lets a line end in LF alone; servers in front that do not would see other headers"
NAMES = "methods are known by name; nothing is served under others"
TARGETS = "a target is a path, an asterisk or an absolute URL, of characters that a URL may have"
NUMBERS = "one number without decoration, once: nobody can read another one out of it"
STRICTER = {
    "400: Invalid method encountered": NAMES,
    "400: Expected space after method": NAMES,
    "400: Expected HTTP/2 Connection Preface": NAMES,
    "400: Pause on PRI/Upgrade": NAMES,
    "400: Expected SOURCE method": NAMES,
    "400: Invalid method for": NAMES,
    "400: Invalid HTTP version": "there is no HTTP/1.2",
    "400: this server speaks HTTP/1.1 and HTTP/1.0": "HTTP/0.9 and 2.0 have no such heads",
    "501: this server is no tunnel": "CONNECT asks for a tunnel to anywhere",
    "400: Unexpected char in url": TARGETS,
    "400: Invalid char": TARGETS,
    "400: Unexpected start char in url": TARGETS,
    "400: Expected HTTP/": TARGETS,
    "400: Expected CRLF after version": LINE_ENDS,
    "400: Missing expected": LINE_ENDS,
    "400: Expected LF": LINE_ENDS,
    "400: Invalid header value char": LINE_ENDS,
    "400: Invalid header field char": LINE_ENDS,
    "400: Invalid header token": "a name is a token and nothing stands between it and its colon",
    "400: Unexpected whitespace after header value": "folded lines are obsolete (RFC 9112, section 5.2)",
    "400: Unexpected space after start line": "the same",
    "400: Content-Length can't be present with Transfer-Encoding": "ambiguous (RFC 9112, section 6.1)",
    "400: Transfer-Encoding can't be present with Content-Length": "the same",
    "400: Duplicate Content-Length": NUMBERS,
    "400: Invalid character in Content-Length": NUMBERS,
    "400: Content-Length overflow": NUMBERS,
    "400: Empty Content-Length": NUMBERS,
    "400: Invalid character in chunk": "h11 takes spaces behind a chunk size and any extension",
    "400: Chunk size overflow": "h11 takes 20 digits",
    "400: Request has invalid `Transfer-Encoding`": "chunked with white space that is no space",
    "400: Empty Transfer-Encoding": "no coding at all is no value",
    "400: Invalid `Transfer-Encoding` header": "it cannot be a trailer",
    "400: an HTTP/1.0 request cannot have a Transfer-Encoding": "RFC 9112, section 6.1: faulty framing",
    "501: the only Transfer-Encoding this server knows is chunked": "h11 forgets that there was another one",
    "400: the header": "h11 allows an HTTP/1.0 request two of them",
}
"""What we refuse and h11 takes, by the beginning of our reason."""

LAXER = {
    r"no request line received": "empty lines before a request are skipped, as RFC 9112, section 2.2, asks",
    r"illegal request line: bytearray\(b'\\r": "the same, where a carriage return too many stands there",
    r"illegal request line: .*(RTSP|ICE)/1": "llhttp knows these; they are taken as HTTP/1.0",
    r"illegal request line: bytearray\(b['\"][A-Z]+  ": "more than one space before the target; it means the same",
    r"illegal request line: bytearray\(b['\"].*  ?HTTP/1": "more than one space before the version; it means the same",
    r"illegal chunk header": "any number of zeros before a chunk's size; h11 stops at 20 digits",
    r"closed behind HTTP/1.0": "h11 never keeps such a connection; here it is kept when the client asks for it",
}
"""What h11 refuses and we take, by its reason. Where requests end is the same in all of them."""


@dataclass
class Seen:
    """What one side made of the bytes."""

    requests: list[tuple[bytes, bytes | None, bytes]] = field(default_factory=list)
    """Method, target where it begins with a slash, and body of each."""
    end: str = "open"
    """`open`: waits for more; `closed`: by the last request's wish; else why the rest was refused."""


class Collected:
    """What a reader found. See `Reading`."""

    def __init__(self) -> None:
        self.seen = Seen()

    def on_request(self, request: ClientRequest) -> None:
        """See `Reading`."""
        if self.seen.end == "closed":
            return
        target = request.path + (b"?" + request.query if request.query else b"")
        self.seen.requests.append((request.method, target, request.body))
        if not request.keep_alive:
            self.seen.end = "closed"

    def on_expect(self) -> None:
        """See `Reading`."""

    def on_refused(self, request: ClientRequest, error: Refused) -> None:
        """See `Reading`."""
        if self.seen.end != "closed":
            self.seen.end = f"{error.status}: {error.__cause__ or error}"


def ours(pieces: list[bytes]) -> Seen:
    """What the gateway sees."""
    collected = Collected()
    reader = RequestReader(LIMITS, collected)
    for piece in pieces:
        reader.feed(piece)
    return collected.seen


def theirs(data: bytes) -> Seen:
    """What h11 sees."""
    seen = Seen()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10**6)
    connection.receive_data(data)
    request, body = h11.Request(method="GET", target="/", headers=[("host", "g")]), b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                seen.requests.append((request.method, request.target, body))
                connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    seen.end = "closed behind HTTP/1.0" if request.http_version == b"1.0" else "closed"
                    return seen
                connection.start_next_cycle()
            else:
                return seen
    except h11.RemoteProtocolError as error:
        seen.end = str(error)
    return seen


def difference(one: Seen, other: Seen) -> str | None:
    """In what the two differ: a row of a table, or None. Raises `AssertionError` when nothing excuses it."""
    for mine, reference in zip(one.requests, other.requests, strict=False):
        assert (mine[0], mine[2]) == (reference[0], reference[2]), "another request, or another body"
        if reference[1] is not None and reference[1].startswith(b"/"):
            assert mine[1] == reference[1].rstrip(b"?") or mine[1] == reference[1], "another target"
    if len(one.requests) == len(other.requests):
        return None
    if len(one.requests) < len(other.requests):
        if other.requests[len(one.requests)][0] == b"PRI":
            # Taken for the beginning of an HTTP/2 preface, whose rest is waited for.
            return "400: Expected HTTP/2 Connection Preface"
        return next(reason for reason in STRICTER if one.end.startswith(reason))
    return next(reason for reason in LAXER if re.match(reason, other.end, re.DOTALL))


@pytest.mark.parametrize("inputs", [4000, pytest.param(500_000, marks=pytest.mark.soak)])
def test_requests_are_what_h11_says(inputs: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    met: Counter[str] = Counter()
    for seed in range(inputs):
        chance = random.Random(seed)
        data = request_bytes(chance)
        found = ours([data])
        try:
            row = difference(found, theirs(data))
        except (AssertionError, StopIteration) as error:
            pytest.fail(f"seed {seed}: {error}\n{data!r}\nours {found}\nh11's {theirs(data)}")
        met[row or ("taken" if found.requests else "refused by both")] += 1
        assert ours(cuts(chance, data)) == found, f"seed {seed}: cut elsewhere, {data!r} means something else"
    assert not caplog.records, "something failed for no reason foreseen"
    assert met["taken"] > inputs // 5, met
    assert met["refused by both"] > inputs // 50, met
