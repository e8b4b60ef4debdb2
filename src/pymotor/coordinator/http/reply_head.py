"""Heads of engines' replies: parsed by llhttp, and not again while their bytes stay the same.

Hot path. The heads of one engine version differ in `date` and `content-length` only, so that many replies within a
second share theirs.
"""

from __future__ import annotations

import httptools

from pymotor.coordinator.http.exchange import BadReply, Headers

_HEADS_KEPT = 1024
_KEPT_BYTES = 4096
HEAD_END = b"\r\n\r\n"


class _HeadParser:
    """Collects one reply's head from llhttp."""

    __slots__ = ("headers", "keep_alive", "parser", "status", "version")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.status = 0
        self.version = ""
        self.keep_alive = True
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.version = self.parser.get_http_version()
        self.keep_alive = self.parser.should_keep_alive()


class ReplyHead:
    """A reply's head, read; shared by all replies whose head has the same bytes, so nothing changes it."""

    __slots__ = ("chunked", "headers", "keep_alive", "length", "status")

    def __init__(self, data: bytes) -> None:
        """`data` is what stands before the empty line. Raises `BadReply`."""
        parser = _HeadParser()
        try:
            parser.parser.feed_data(data + HEAD_END)
        except httptools.HttpParserError as error:
            raise BadReply(f"not an HTTP reply: {error}") from error
        except httptools.HttpParserUpgrade:
            # Offered beside a whole reply it means nothing; a 101 is refused below.
            pass
        if parser.version not in ("1.1", "1.0"):
            raise BadReply("not a reply of HTTP/1.1")
        if not 100 <= parser.status < 600 or parser.status == 101:
            raise BadReply(f"status {parser.status} was not asked for")
        self.status = parser.status
        self.headers = parser.headers
        # After a 5xx vLLM closes the connection without saying so.
        self.keep_alive = parser.keep_alive and parser.status < 500
        self.chunked = False
        self.length: int | None = None
        codings = []
        for name, value in parser.headers:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                codings.append(value.strip().lower())
        if parser.status in (204, 304):
            self.length = 0
        elif codings:
            if codings != [b"chunked"]:
                raise BadReply(f"the transfer coding {b', '.join(codings)!r} is not chunked")
            self.chunked = True
            self.length = None


class ReplyHeads:
    """The heads seen lately by one worker."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, ReplyHead] = {}

    def read(self, data: bytes) -> ReplyHead:
        """The head that is `data` up to the empty line. Raises `BadReply`."""
        head = self._heads.get(data)
        if head is None:
            head = ReplyHead(data)
            if len(data) > _KEPT_BYTES:
                return head
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            self._heads[data] = head
        return head
