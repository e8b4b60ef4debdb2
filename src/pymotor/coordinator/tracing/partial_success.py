"""What a collector answers to spans: `ExportTraceServiceResponse`, which may say that it has not taken all of them.

https://opentelemetry.io/docs/specs/otlp/#partial-success-1, in the wire format of Protocol Buffers.
"""

from __future__ import annotations

from typing import NamedTuple

_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST_VARINT = 10
_SIGN, _ALL = 1 << 63, 1 << 64


class PartialSuccess(NamedTuple):
    """A collector has not taken all, or has something to say of what it has taken."""

    rejected: int
    """Spans."""
    message: str


def partial_success(response: bytes) -> PartialSuccess | None:
    """What the response's body says against a request; None: nothing. Raises `ValueError` for what is no such
    message."""
    told = _fields(response).get(1)
    if not isinstance(told, bytes):
        return None
    fields = _fields(told)
    rejected, message = fields.get(1, 0), fields.get(2, b"")
    if not isinstance(rejected, int) or not isinstance(message, bytes):
        raise ValueError("a field has another type than it should")  # noqa: TRY004  it is of what was received
    if rejected >= _SIGN:
        rejected -= _ALL
    return PartialSuccess(rejected, message.decode("utf-8", "replace")) if rejected or message else None


def _fields(message: bytes) -> dict[int, int | bytes]:
    """By number; of a repeated one the last."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            found[number], at = _varint(message, at)
            continue
        if kind == _DELIMITED:
            size, at = _varint(message, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"there is no wire type {kind}")
        found[number] = message[at : at + size]
        at += size
        if at > len(message):
            raise ValueError("a field is cut off")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for position, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return number % _ALL, at + position + 1
    raise ValueError("a number has no end")
