"""What a media item is, however its JSON was written.

Two writers put white space and escapes where they like: the same picture of both is one item. What is large is looked
through once more at most, and copied only where it has escapes.
"""

from __future__ import annotations

import re

import msgspec
import xxhash

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.place import offset_in

Part = dict[str, msgspec.Raw]

_BACKSLASH = re.compile(rb"\\")
_QUOTE = ord('"')
_NESTED = frozenset(b"{[")

_strings = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def plain(raw: msgspec.Raw, body: bytes | None = None) -> msgspec.Raw:
    """The JSON value without escapes that it need not have if it is a string, without white space between its parts
    otherwise; the value itself where that is what it is. `body` is what it was read from, where that is at hand."""
    try:
        first = memoryview(raw)[0]
        if first == _QUOTE and _has_escapes(raw, body):
            return msgspec.Raw(_encode(_strings.decode(raw)))
        if first in _NESTED:
            return msgspec.Raw(msgspec.json.format(bytes(raw), indent=-1))
    except UNREADABLE:
        # The engine says what is wrong with it.
        pass
    return raw


def text_of(raw: msgspec.Raw) -> tuple[bytes, msgspec.Raw]:
    """A JSON string's text, and the string without escapes that it need not have. Raises as decoders do."""
    text = _strings.decode(raw)
    found = text.encode()
    # What is escaped is shorter than its escape.
    return found, raw if len(found) + 2 == len(memoryview(raw)) else msgspec.Raw(_encode(text))


def key_of(meaning: Part) -> int:
    """64 bits of hash of all values with their names, of a single one without its name."""
    if len(meaning) == 1:
        (value,) = meaning.values()
        return xxhash.xxh3_64_intdigest(memoryview(value))
    found = xxhash.xxh3_64()
    for name in sorted(meaning):
        found.update(name.encode())
        found.update(memoryview(meaning[name]))
    return found.intdigest()


def _has_escapes(raw: msgspec.Raw, body: bytes | None) -> bool:
    at = offset_in(body, raw) if body is not None else -1
    if body is None or at < 0:
        return _BACKSLASH.search(memoryview(raw)) is not None
    return body.find(b"\\", at, at + len(memoryview(raw))) >= 0
