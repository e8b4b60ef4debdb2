"""Heads of requests that were read before: a client that keeps its connection sends the same one again and again.

Hot path. A head is known by its bytes, but for the digits of its Content-Length, so that what llhttp made of it the
first time is what it would make of it again. Only heads that end in nothing special are kept: HTTP/1.1, kept alive, no
Transfer-Encoding, no Expect, no offer to switch protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pymotor.coordinator.http.client_request import ClientRequest

_END = b"\r\n\r\n"
_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_LENGTH_SIZE = len(_LENGTHS[0])
_MOST_DIGITS = 9
_LONGEST = 4096
_MOST = 512
_SPECIAL = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"http2-settings"))


class KnownHead(NamedTuple):
    """What llhttp has made of it."""

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    """Shared by all requests that begin like this, so nobody changes it; without the length."""


class KnownHeads:
    """The heads that a process has read lately."""

    __slots__ = ("_heads", "_longest_body")

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self._longest_body = 0

    def __len__(self) -> int:
        return len(self._heads)

    def use(self, longest_body: int) -> None:
        """What may be in a head is another thing from now on; `longest_body` in bytes."""
        self._longest_body = longest_body
        self._heads.clear()

    def request_in(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """Head and body of the request that `data`, from the boundary of a request on, is: no more and no less. None
        where its head is not known or that is not so."""
        end = data.find(_END)
        cut = _cut(data, end)
        if cut is None:
            return None
        key, length = cut
        head = self._heads.get(key)
        if head is None or len(data) != end + 4 + length or length > self._longest_body:
            return None
        return head, data[end + 4 :]

    def learn(self, data: bytes, request: ClientRequest) -> None:
        """`data`, from the boundary of a request on, was read as this request, maybe with others."""
        end = data.find(_END)
        headers = request.headers
        if not request.http_11 or not request.keep_alive or end > _LONGEST or not _SPECIAL.isdisjoint(headers):
            return
        cut = _cut(data, end)
        if cut is None or len(data) != end + 4 + cut[1] or len(request.body) != cut[1]:
            return
        if not data.startswith(request.method):
            return  # llhttp passes over empty lines before a request
        if data[:end].lower().count(b"content-length") > 1:
            return  # llhttp refuses two, but let nothing depend on it
        if len(self._heads) >= _MOST:
            del self._heads[next(iter(self._heads))]
        kept = {name: value for name, value in headers.items() if name != b"content-length"}
        self._heads[cut[0]] = KnownHead(request.method, request.path, request.query, kept)


def _cut(data: bytes, end: int) -> tuple[bytes, int] | None:
    """The head without the digits of its length, and the length, 0 where it has none; `end` is where it ends. None
    where that cannot be told."""
    if end < 0:
        return None
    at = data.find(_LENGTHS[0], 0, end)
    if at < 0:
        at = data.find(_LENGTHS[1], 0, end)
        if at < 0:
            return data[:end], 0
    first = at + _LENGTH_SIZE
    last = data.find(b"\r\n", first)
    digits = data[first:last]
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None
    return data[:first] + data[last:end], int(digits)
