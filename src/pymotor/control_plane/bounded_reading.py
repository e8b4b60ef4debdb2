"""Reading what another program answers, however long that is and however long it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic


class UnboundedError(Exception):
    """There is too much of it, or no end of it in time; the message says which, as in "it answers with …"."""


async def read_bounded(pieces: AsyncIterator[bytes], longest: int, deadline: float = float("inf")) -> bytes:
    """All pieces together, at most `longest` bytes, by `deadline` (`monotonic()`). Raises `UnboundedError`."""
    found = bytearray()
    async for piece in pieces:
        found += piece
        if len(found) > longest:
            raise UnboundedError(f"more than {longest} bytes")
        if monotonic() > deadline:
            raise UnboundedError("something that does not come to its end")
    return bytes(found)
