"""A known head is read as llhttp would read it; what is no whole request with such a head goes to llhttp."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.http.client_request import ClientRequest, Limits, Refused
from pymotor.coordinator.http.request_reader import RequestReader

HEADS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: Bearer k\r\n\r\n",
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\nX-Request-Id: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH: %d\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\ncontent-length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +%d\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: b\r\nAuthorization: c\r\n\r\n",
    b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
)


class Heard:
    """What a reader finds."""

    def __init__(self, limits: Limits) -> None:
        self.found: list[tuple[object, ...]] = []
        self.reader = RequestReader(limits, self)

    def on_request(self, request: ClientRequest) -> None:
        headers = {name: value for name, value in request.headers.items() if name != b"content-length"}
        self.found.append(
            (request.method, request.path, request.query, headers, request.body, request.keep_alive, request.http_11)
        )

    def on_expect(self) -> None:
        self.found.append(("expect",))

    def on_refused(self, request: ClientRequest, error: Refused) -> None:
        self.found.append(("refused", error.status))


def limits() -> Limits:
    return Limits(head_bytes=2000, body_bytes=50, head_time=10, body_idle=10)


def request(head: int, size: int, more: int) -> bytes:
    """With a body of `size` bytes, of which `more` are too many, or too few where negative."""
    form = HEADS[head]
    return (form % size if b"%d" in form else form) + b"x" * max(0, size + more)


REQUESTS = st.builds(
    request, st.integers(0, len(HEADS) - 1), st.sampled_from((0, 3, 7, 50, 51)), st.sampled_from((0, 0, 0, 0, 1, -1))
)


@given(st.lists(st.lists(REQUESTS, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_what_is_read_does_not_depend_on_what_was_read_before(
    connections: list[list[bytes]], data: st.DataObject
) -> None:
    shared = limits()
    for _ in range(2):
        for pieces in connections:
            with_known, without = Heard(shared), Heard(limits())
            for piece in pieces:
                with_known.reader.feed(piece)
            whole = b"".join(pieces)
            cut = data.draw(st.integers(1, len(whole)))
            without.reader.feed(whole[:cut])
            without.reader.feed(whole[cut:])
            assert with_known.found == without.found


def test_a_known_head_is_used() -> None:
    heard = Heard(limits())
    heard.reader.feed(request(0, 3, 0))
    heard.reader._parser = _Untouched()  # type: ignore[assignment]
    heard.reader.feed(request(0, 7, 0))
    assert [found[4] for found in heard.found] == [b"xxx", b"xxxxxxx"]


class _Untouched:
    """A parser that is not to be fed."""

    def feed_data(self, data: bytes) -> None:
        pytest.fail(f"llhttp was asked for {data!r}")


def test_a_smaller_limit_holds_for_known_heads() -> None:
    shared = limits()
    heard = Heard(shared)
    heard.reader.feed(request(0, 50, 0))
    shared.use(head_bytes=2000, body_bytes=20, head_time=10, body_idle=10, arriving_bytes=1000)
    heard.reader.feed(request(0, 20, 0))
    heard.reader.feed(request(0, 21, 0))
    assert [found[0] for found in heard.found] == [b"POST", b"POST", "refused"]


def test_no_more_heads_are_kept_than_there_is_room_for() -> None:
    shared = limits()
    for number in range(2000):
        Heard(shared).reader.feed(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
    assert len(shared.heads) <= 512
