"""Heads of requests that were read before: a client that keeps its connection sends the same one again and again.

Hot path. A head is known by its bytes, but for the digits of its Content-Length, so that what was made of it the first
time is what would be made of it again. Only heads that end in nothing special are kept: HTTP/1.1, kept alive, no
Transfer-Encoding, no Expect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymotor.coordinator.http.client_request import ClientRequest
    from pymotor.coordinator.keys.api_key import ApiKey

_END = b"\r\n\r\n"
_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_LENGTH_SIZE = len(_LENGTHS[0])
_MOST_DIGITS = 9
_LONGEST = 4096
_MOST = 512
_SPECIAL = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"http2-settings"))


class KnownHead:
    """What llhttp has made of it, and what others have found out about it since. Shared by all requests that begin like
    this, so nobody changes the headers, which lack the length."""

    __slots__ = (
        "_before",
        "_behind",
        "headers",
        "kept",
        "key",
        "method",
        "path",
        "query",
        "vouchers",
    )

    def __init__(self, request: ClientRequest, before: bytes, behind: bytes) -> None:
        """`before` and `behind` are what stands before and behind the digits of the length; `behind` is empty where
        there is no length."""
        self.method = request.method
        self.path = request.path
        self.query = request.query
        self.headers = {name: value for name, value in request.headers.items() if name != b"content-length"}
        self._before = before
        self._behind = behind
        self.kept = True
        """Whether it may still be used."""
        self.key: ApiKey | None = None
        """Whose key it shows, which was good for this method and path when it was looked at."""
        self.vouchers: tuple[object, object] | None = None
        """Who has found `key`, and among which keys; where either is another by now it has to be looked at again."""

    def body_in(self, data: bytes, longest: int) -> bytes | None:
        """The body of the request that `data` is, no more and no less, if it begins with this head and is not longer
        than `longest` bytes; else None."""
        # Calls that parse their arguments, as `startswith` and `find` do, cost twice as much as these.
        rest = data.removeprefix(self._before)
        if len(rest) == len(data):
            return None
        if not self._behind:
            return None if rest else b""
        digits, behind, body = rest.partition(self._behind)
        if not behind or not digits.isdigit() or len(digits) > _MOST_DIGITS:
            return None
        length = int(digits)
        return body if length == len(body) and length <= longest else None


class KnownHeads:
    """The heads that a process has read lately."""

    __slots__ = ("_heads", "longest_body")

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self.longest_body = 0
        """In bytes."""

    def __len__(self) -> int:
        return len(self._heads)

    def use(self, longest_body: int) -> None:
        """What may be in a head is another thing from now on; `longest_body` in bytes."""
        self.longest_body = longest_body
        for head in self._heads.values():
            head.kept = False
        self._heads.clear()

    def head_of(self, data: bytes) -> KnownHead | None:
        """The head that `data`, from the boundary of a request on, begins with, where it is known."""
        cut = _cut(data, data.find(_END))
        return self._heads.get(cut[0]) if cut is not None else None

    def learn(self, data: bytes, request: ClientRequest) -> KnownHead | None:
        """`data`, from the boundary of a request on, was read as this request, maybe with others. Its head is known
        from now on, unless it is one that is not kept: then None."""
        end = data.find(_END)
        headers = request.headers
        if not request.http_11 or not request.keep_alive or end > _LONGEST or not _SPECIAL.isdisjoint(headers):
            return None
        cut = _cut(data, end)
        if cut is None or len(data) != end + 4 + cut[1] or len(request.body) != cut[1]:
            return None
        if not data.startswith(request.method):
            return None  # llhttp passes over empty lines before a request
        if data[:end].lower().count(b"content-length") > 1:
            return None  # llhttp refuses two, but let nothing depend on it
        if len(self._heads) >= _MOST:
            self._heads.pop(next(iter(self._heads))).kept = False
        first, digits = cut[2], cut[3]
        before, behind = (data[:first], data[first + digits : end + 4]) if digits else (data[: end + 4], b"")
        head = self._heads[cut[0]] = KnownHead(request, before, behind)
        return head


def _cut(data: bytes, end: int) -> tuple[bytes, int, int, int] | None:
    """The head, which ends at `end`, without the digits of its length; the length, 0 where it has none; where the
    digits begin, and how many they are. None where that cannot be told."""
    if end < 0:
        return None
    at = data.find(_LENGTHS[0], 0, end)
    if at < 0:
        at = data.find(_LENGTHS[1], 0, end)
        if at < 0:
            return data[:end], 0, end, 0
    first = at + _LENGTH_SIZE
    last = data.find(b"\r\n", first)
    digits = data[first:last]
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None
    return data[:first] + data[last:end], int(digits), first, len(digits)
