"""Bodies of other programs are read up to a limit and a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic

import pytest

from pymotor.control_plane.bounded_reading import UnboundedError, read_bounded


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_all_pieces_together() -> None:
    assert await read_bounded(pieces(b"ab", b"", b"c"), 3) == b"abc"


async def test_one_byte_too_many() -> None:
    with pytest.raises(UnboundedError, match="more than 2 bytes"):
        await read_bounded(pieces(b"ab", b"c"), 2)


async def test_no_end_in_time() -> None:
    with pytest.raises(UnboundedError, match="end"):
        await read_bounded(pieces(b"a"), 2, monotonic() - 1)
