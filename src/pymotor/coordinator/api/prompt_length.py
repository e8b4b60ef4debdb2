"""About how many tokens a prompt has, from the bytes of its JSON text.

Four bytes of UTF-8 are taken for a token: right within a third for English (4.2 characters of one byte to a token in
the vocabularies of today's models), Russian (2.5 of two bytes), Chinese and Japanese (1.5 of three bytes). Clients that
write other scripts as `\\uXXXX` take six bytes for what are two or three, so these count as three. Media are counted by
their pixels, never by their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

_BYTES_A_TOKEN = 4
_ESCAPE_EXCESS = 3
"""Bytes of `\\uXXXX` beyond those of the character in UTF-8."""
_SAMPLED_BYTES = 65536


def text_tokens(pieces: Iterable[msgspec.Raw], media_bytes: int = 0) -> int:
    """The estimate for JSON values, `media_bytes` of which are media and not text."""
    total = -media_bytes
    for piece in pieces:
        view = memoryview(piece)
        size = len(view)
        total += size
        if size <= _SAMPLED_BYTES:
            total -= _ESCAPE_EXCESS * bytes(view).count(b"\\u")
        elif not media_bytes:
            # A long text is like its beginning.
            total -= _ESCAPE_EXCESS * bytes(view[:_SAMPLED_BYTES]).count(b"\\u") * size // _SAMPLED_BYTES
    return max(0, total) // _BYTES_A_TOKEN + 1


def token_ids(prompt: msgspec.Raw) -> int | None:
    """How many token ids a `prompt` holds that is a list of them, or a list of such lists; None for text."""
    text = bytes(prompt)
    first = text[:256].lstrip(b"[ \t\r\n")[:1]
    if text[:1] != b"[" or not first.isdigit():
        return None
    # With m lists of together n ids there are n - m commas within and m - 1 between them.
    return text.count(b",") + 1
