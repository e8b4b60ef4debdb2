"""HTTP/1.1 chunked transfer coding, as far as a gateway needs it (RFC 9112, section 7.1)."""

from __future__ import annotations

SMALL_CHUNK = 2048
"""Bytes below which a chunk's framing is compared, not parsed: nearly every event of a stream."""
EVENT_END = b"}\n\n\r\n"
"""How a chunk ends that ends an event, and that event ends in a brace."""
NO_CHUNK = (b"", -len(EVENT_END))
"""In `event_lines`; nothing has so few bytes."""
_SIZE_LINE_LIMIT = 256
_TRAILER_LIMIT = 16384
_DIGITS_LIMIT = 15
_ZERO = ord("0")
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class FramingError(ValueError):
    """The peer's bytes are no valid chunked body."""


class ChunkedDecoder:
    """Turns a chunked body into its payload, whatever way the bytes are cut."""

    __slots__ = ("_after_payload", "_buffer", "_in_trailers", "_remaining", "at_boundary", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._remaining = 0
        self._after_payload = False
        self._in_trailers = False
        self.at_boundary = True
        """Whether the next byte begins a chunk."""
        self.rest = b""
        """Bytes after the end of the body; only filled once `feed` said that the body is over."""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """The payload in `data` and whether the body is over. Raises `FramingError`."""
        pieces: list[bytes] = []
        position = 0
        while self.at_boundary:
            # Whole chunks; what is cut, or wrong, is left to `_feed`.
            end = data.find(b"\r\n", position)
            if end < 0:
                break
            size = _chunk_size(data[position:end])
            stop = end + 2 + size
            if data[stop : stop + 2] != b"\r\n":
                break
            position = stop + 2
            if not size:
                self.at_boundary = False
                self.rest = data[position:]
                return b"".join(pieces), True
            pieces.append(data[end + 2 : stop])
        if position == len(data):
            return b"".join(pieces), False
        payload, over = self._feed(data[position:])
        self.at_boundary = not (self._buffer or self._remaining or self._after_payload or self._in_trailers)
        return b"".join([*pieces, payload]), over

    def _feed(self, data: bytes) -> tuple[bytes, bool]:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        position = 0
        while True:
            if self._remaining:
                piece = data[position : position + self._remaining]
                if piece:
                    pieces.append(piece)
                    position += len(piece)
                    self._remaining -= len(piece)
                if self._remaining:
                    return b"".join(pieces), False
                self._after_payload = True
            if self._after_payload:
                if len(data) - position < 2:
                    break
                if data[position : position + 2] != b"\r\n":
                    raise FramingError("a chunk does not end where its size says")
                position += 2
                self._after_payload = False
            end = data.find(b"\r\n", position)
            if end < 0:
                if len(data) - position > (_TRAILER_LIMIT if self._in_trailers else _SIZE_LINE_LIMIT):
                    raise FramingError("a chunk's size line or trailer is too long")
                break
            if self._in_trailers:
                if end == position:
                    self.rest = data[end + 2 :]
                    return b"".join(pieces), True
                position = end + 2
                continue
            self._remaining = _chunk_size(data[position:end])
            position = end + 2
            self._in_trailers = self._remaining == 0
        self._buffer = data[position:]
        return b"".join(pieces), False


def _chunk_size(line: bytes) -> int:
    if line.isalnum() and len(line) <= _DIGITS_LIMIT:
        if line == b"0":
            return 0
        try:
            # What `int` takes beyond digits is no letter and no digit, but for 0x.
            if line[0] != _ZERO:
                return int(line, 16)
        except ValueError:
            raise FramingError(f"{line[:40]!r} is no chunk size") from None
    digits = line.split(b";", 1)[0].rstrip(b" \t")
    if not digits or len(digits) > _DIGITS_LIMIT or not _HEX_DIGITS.issuperset(digits):
        raise FramingError(f"{line[:40]!r} is no chunk size")
    return int(digits, 16)


def chunk(payload: bytes) -> bytes:
    """`payload`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event_lines() -> list[tuple[bytes, int]]:
    """For each number of bytes below `SMALL_CHUNK`, what a chunk of so many begins with and how many bytes there are
    between that and `EVENT_END`, or `NO_CHUNK` where no chunk is so long. Digits as servers write them: lower case, no
    zeros before them."""
    found = [NO_CHUNK] * SMALL_CHUNK
    for payload in range(1, SMALL_CHUNK):
        line = b"%x\r\n" % payload
        size = len(line) + payload + 2
        if size < SMALL_CHUNK:
            found[size] = line, size - len(line) - len(EVENT_END)
    return found


def only_chunk(data: bytes, lines: list[tuple[bytes, int]]) -> int:
    """Where the payload begins if `data` is one whole chunk, else 0; `lines` are `event_lines`."""
    size = len(data)
    if size < SMALL_CHUNK:
        line, inside = lines[size]
        if line and len(data.removeprefix(line).removesuffix(b"\r\n")) == inside + len(EVENT_END) - 2:
            return len(line)
    start, stop = _chunk_at(data, 0)
    return start if stop == size and data.endswith(b"\r\n") else 0


def are_events(data: bytes) -> bool:
    """Whether `data` is whole chunks which all end in `EVENT_END`."""
    if not data.endswith(EVENT_END):
        return False
    size = len(data)
    position = 0
    while position < size:
        start, position = _chunk_at(data, position)
        if not start or data[position - len(EVENT_END) : position] != EVENT_END:
            return False
    return True


def _chunk_at(data: bytes, position: int) -> tuple[int, int]:
    """Where the payload of the chunk at `position` begins and where the next chunk does; zeros where there is no size
    in plain digits, or it is 0."""
    end = data.find(b"\r\n", position + 1, position + 18)
    line = data[position:end] if end > 0 else b""
    if not line.isalnum() or line[0] == _ZERO:
        return 0, 0
    try:
        return end + 2, end + 4 + int(line, 16)
    except ValueError:
        return 0, 0


LAST_CHUNK = b"0\r\n\r\n"
