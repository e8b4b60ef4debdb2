"""HTTP/1.1 chunked transfer coding, as far as a gateway needs it (RFC 9112, section 7.1)."""

from __future__ import annotations

SMALL_CHUNK = 2048
"""Bytes below which a chunk's framing is compared, not parsed: nearly every event of a stream."""
_SIZE_LINE_LIMIT = 256
_TRAILER_LIMIT = 16384
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
        payload, over = self._feed(data)
        self.at_boundary = not (self._buffer or self._remaining or self._after_payload or self._in_trailers)
        return payload, over

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
    digits = line.split(b";", 1)[0].rstrip(b" \t")
    if not digits or len(digits) > 15 or not _HEX_DIGITS.issuperset(digits):
        raise FramingError(f"{line[:40]!r} is no chunk size")
    return int(digits, 16)


def chunk(payload: bytes) -> bytes:
    """`payload`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def size_lines() -> list[tuple[bytes, int]]:
    """For each number of bytes below `SMALL_CHUNK`, what a chunk of so many begins with and how long its payload is; -1
    where no chunk is so long. Digits as servers write them: lower case, no zeros before them."""
    found = [(b"", -1)] * SMALL_CHUNK
    for payload in range(1, SMALL_CHUNK):
        line = b"%x\r\n" % payload
        size = len(line) + payload + 2
        if size < SMALL_CHUNK:
            found[size] = line, payload
    return found


def only_chunk(data: bytes, lines: list[tuple[bytes, int]]) -> int:
    """Where the payload begins if `data` is one whole chunk, else 0; `lines` are `size_lines`."""
    size = len(data)
    if size < SMALL_CHUNK:
        line, length = lines[size]
        if len(data.removeprefix(line).removesuffix(b"\r\n")) == length:
            return len(line)
    end = data.find(b"\r\n", 1, 18)
    if end <= 0:
        return 0
    line = data[:end]
    try:
        # What `int` takes beyond digits (signs, spaces, underscores, 0x) goes the long way and fails there.
        length = int(line, 16) if line.isalnum() and line[0] != _ZERO else -1
    except ValueError:
        return 0
    return end + 2 if length > 0 and end + length + 4 == size and data.endswith(b"\r\n") else 0


LAST_CHUNK = b"0\r\n\r\n"
