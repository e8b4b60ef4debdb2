"""What a client sends, cut into requests: llhttp's callbacks, limits, and what is refused beside what llhttp refuses.

Hot path. A server behind others must not see two requests where they see one, so that everything ambiguous about
where a request ends is an error (RFC 9112, sections 6.3 and 11.2).
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Protocol

import httptools

from pymotor.coordinator.http.client_request import ClientRequest, Limits, Refused
from pymotor.coordinator.http.head_checks import check_old, origin_form
from pymotor.coordinator.http.known_heads import KnownHead
from pymotor.coordinator.http.upgrade_offers import head_without_offer

logger = logging.getLogger(__name__)

_PIECES_KEPT = 1024
_UNKNOWN_HEADS = 8
"""In a row, after which a connection's heads are not looked up any more: its client puts something new into each."""


class Reading(Protocol):
    """Who gets the requests."""

    def on_request(self, request: ClientRequest) -> None:
        """A request is whole. May raise `Refused`."""

    def on_expect(self) -> None:
        """A client waits for leave to send the body of the request it has begun."""

    def on_refused(self, request: ClientRequest, error: Refused) -> None:
        """There will be no more requests."""


class RequestReader:
    """Reads one connection."""

    __slots__ = (
        "_arriving",
        "_body",
        "_body_seen",
        "_body_size",
        "_ended",
        "_head",
        "_head_done",
        "_head_size",
        "_heads",
        "_joined",
        "_limits",
        "_outside",
        "_over",
        "_parser",
        "_reading",
        "_repeated",
        "_request",
        "_unknown",
        "_upgrading",
        "_url",
        "deadline",
        "expecting",
        "pending",
    )

    def __init__(self, limits: Limits, reading: Reading) -> None:
        self._limits = limits
        self._heads = limits.heads
        self._head: KnownHead | None = None
        self._unknown = 0
        self._reading: Reading | None = reading
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._request = ClientRequest()
        self._url = b""
        self._body: list[bytes] = []
        self._arriving = 0
        self._joined = 0
        self._body_size = 0
        self._body_seen = -1
        self._head_size = 0
        self._head_done = False
        self._outside = 0
        self._repeated = b""
        self._ended = False
        self._upgrading = False
        self._over = False
        self.pending = False
        """Whether a request has begun and is not whole."""
        self.expecting = False
        """Whether that request's client waits for leave to send the body."""
        self.deadline = 0.0
        """When more of that request must have come, as `monotonic()`."""

    def feed(self, data: bytes) -> None:
        """Read on."""
        if self._over or self._parser is None:
            return
        self._ended = False
        fresh = self._unknown < _UNKNOWN_HEADS and not self.pending and self._request.keep_alive
        if fresh and self._known(data):
            return
        offered_at = -1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._stop(error)
        except httptools.HttpParserUpgrade as upgrade:
            offered_at = upgrade.args[0]
        if offered_at >= 0:
            self._pass_over_upgrades(memoryview(data)[offered_at:])
        if self.pending:
            self._unfinished(len(data))
        elif fresh and self._ended:
            self._unknown += 1
            self._head = self._heads.learn(data, self._request)

    def _known(self, data: bytes) -> bool:
        """Whether it is a whole request whose head is known: the last one's most often. Then it is taken."""
        heads = self._heads
        head = self._head
        body = head.body_in(data, heads.longest_body) if head is not None and head.kept else None
        if body is None:
            head = self._head = heads.head_of(data)
            body = head.body_in(data, heads.longest_body) if head is not None else None
        if head is None or body is None:
            return False
        self._unknown = 0
        request = self._request = ClientRequest(
            head.method, head.path, head.query, head.headers, body, monotonic(), head
        )
        assert self._reading is not None
        try:
            self._reading.on_request(request)
        except Refused as error:
            self.refuse(error)
        return True

    def refuse(self, error: Refused) -> None:
        """Read no more."""
        self.stop()
        if self._reading is not None:
            self._reading.on_refused(self._request, error)

    def stop(self) -> None:
        """Drop what is fed from now on, and what has come of a request that is not whole."""
        self._over = True
        self.pending = False
        self._let_go()

    def _let_go(self) -> None:
        self._body = []
        self._limits.arriving.held -= self._arriving
        self._arriving = 0

    @property
    def latest(self) -> ClientRequest:
        """The request that was begun last."""
        return self._request

    def wait_on(self) -> None:
        """The time for the request that has begun starts anew: nobody waited for it until now."""
        limits = self._limits
        self.deadline = monotonic() + (limits.body_idle if self._head_done else limits.head_time)

    def close(self) -> None:
        """The connection is gone; nothing is kept."""
        self._over = True
        self.pending = False
        self._parser = self._reading = None
        self._let_go()

    # -- llhttp's callbacks; what they raise ends the reading

    def on_message_begin(self) -> None:
        self.pending = True
        self.expecting = False
        self.deadline = 0.0
        self._head_done = False
        self._head_size = 0
        self._outside = 0
        self._repeated = b""
        self._body_size = 0
        self._body_seen = -1
        self._url = b""
        self._request = ClientRequest()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        name = name.lower()
        headers = self._request.headers
        if self._head_done:
            # Trailers: nobody here wants one, and no field of the head may be replaced by one.
            self._check_head_size()
            return
        if name in headers:
            if name in self._limits.once:
                self._repeated = name
            elif name == b"connection":
                value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        request = self._request
        parser = self._parser
        assert parser is not None
        self._head_done = True
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        version = parser.get_http_version()
        request.http_11 = version == "1.1"
        headers = request.headers
        if not request.http_11:
            check_old(version, headers)
        if parser.should_upgrade():
            self._upgrading = True
            return
        path, _, request.query = self._url.partition(b"?")
        request.path = path if path.startswith(b"/") else origin_form(path)
        self._check_head_size()
        if b"host" not in headers and request.http_11:
            raise Refused(400, "an HTTP/1.1 request must have a Host header")
        if self._repeated:
            raise Refused(400, f"the header {self._repeated.decode()} must not be repeated")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.strip(b" \t").lower() != b"chunked":
            raise Refused(501, "the only Transfer-Encoding this server knows is chunked")
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            raise self._too_long()
        if b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and request.http_11:
            assert self._reading is not None
            self.expecting = True
            self._reading.on_expect()

    def on_body(self, data: bytes) -> None:
        size = len(data)
        self._body_size += size
        self._arriving += size
        arriving = self._limits.arriving
        arriving.held += size
        if arriving.held > arriving.limit:
            raise Refused(503, "too many large requests are arriving at once")
        if self._body_size > self._limits.body_bytes:
            raise self._too_long()
        body = self._body
        body.append(data)
        if len(body) - self._joined > _PIECES_KEPT:
            # Of a body in tiny chunks the pieces would weigh much more than the bytes.
            body[self._joined :] = [b"".join(body[self._joined :])]
            self._joined = len(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        request = self._request
        body = self._body
        if body:
            request.body = body[0] if len(body) == 1 else b"".join(body)
            self._body = []
            self._joined = 0
        self._limits.arriving.held -= self._arriving
        self._arriving = 0
        self.pending = False
        self._ended = True
        request.received_at = monotonic()
        assert self._reading is not None
        self._reading.on_request(request)

    # -- what is rare

    def _unfinished(self, size: int) -> None:
        """A read of `size` bytes has left a request unfinished: limits on its time and on what is no body."""
        if not self._request.began_at:
            self._request.began_at = monotonic()
        if self._head_done and self._body_size > self._body_seen:
            self._body_seen = self._body_size
            self.deadline = monotonic() + self._limits.body_idle
            return
        if not self._head_done and not self.deadline:
            self.deadline = monotonic() + self._limits.head_time
        if self._ended:
            # The read also had the end of the request before: how much of it was this one's nobody knows.
            return
        self._outside += size
        if self._outside > self._limits.head_bytes:
            self.refuse(self._head_too_large())

    def _check_head_size(self) -> None:
        if self._head_size + len(self._url) > self._limits.head_bytes:
            raise self._head_too_large()

    def _head_too_large(self) -> Refused:
        return Refused(431, f"the request's headers are larger than {self._limits.head_bytes} bytes")

    def _too_long(self) -> Refused:
        return Refused(413, f"the request's body is larger than {self._limits.body_bytes} bytes")

    def _stop(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, Refused):
            self.refuse(cause)
        elif isinstance(error, httptools.HttpParserCallbackError):
            logger.error("reading a request failed for no reason foreseen", exc_info=cause or error)
            self.refuse(Refused(500, "the gateway failed to read this request; its log says why"))
        else:
            refused = Refused(400, "this is not an HTTP/1.1 request")
            refused.__cause__ = error
            self.refuse(refused)

    def _pass_over_upgrades(self, rest: memoryview) -> None:
        """Take a request that offers to switch protocols as one that does not (RFC 9110, section 7.8): Java's client
        offers HTTP/2 with its first. llhttp stops behind the head of such a request, so the head is read again
        without the offer, and then the `rest`. Requests in there may offer the same."""
        while True:
            self._upgrading = False
            if self._request.method == b"CONNECT":
                self.refuse(Refused(501, "this server is no tunnel"))
                return
            head = head_without_offer(self._request, self._url, self._repeated)
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self._parser.feed_data(rest)
            except httptools.HttpParserError as error:
                self._stop(error)
                return
            except httptools.HttpParserUpgrade as upgrade:
                offered_at = upgrade.args[0]
            else:
                return
            rest = rest[offered_at:]
