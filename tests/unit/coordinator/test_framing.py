"""Chunked bodies: the same payload however the bytes are cut, and nothing taken for a chunk that is none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.http.framing import LAST_CHUNK, ChunkedDecoder, FramingError, chunk

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
EXTENSIONS = st.sampled_from((b"", b";a", b";name=value", b' ; q="x"'))
TRAILERS = st.sampled_from((b"", b"X-Checksum: 1\r\n", b"A: b\r\nC: d\r\n"))


def cuts_of(data: bytes, positions: list[int]) -> list[bytes]:
    """`data` cut at these places."""
    places = sorted({position % (len(data) + 1) for position in positions} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


@given(PIECES, EXTENSIONS, TRAILERS, st.lists(st.integers(0, 10_000), max_size=40), st.binary(max_size=20))
def test_any_cut_gives_the_same_payload(
    pieces: list[bytes], extension: bytes, trailer: bytes, positions: list[int], after: bytes
) -> None:
    wire = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    wire += b"0" + extension + b"\r\n" + trailer + b"\r\n"
    decoder = ChunkedDecoder()
    payload = b""
    over = False
    cuts = cuts_of(wire, positions)
    for number, cut in enumerate(cuts):
        assert not over
        last = number == len(cuts) - 1
        found, over = decoder.feed(cut + after if last else cut)
        payload += found
    assert over
    assert payload == b"".join(pieces)
    assert decoder.rest == after


@given(PIECES)
def test_what_chunk_writes_is_read_byte_by_byte(pieces: list[bytes]) -> None:
    decoder = ChunkedDecoder()
    wire = b"".join(map(chunk, pieces)) + LAST_CHUNK
    results = [decoder.feed(wire[at : at + 1]) for at in range(len(wire))]
    assert b"".join(payload for payload, _ in results) == b"".join(pieces)
    assert [over for _, over in results] == [False] * (len(wire) - 1) + [True]


@given(PIECES.filter(bool))
def test_at_boundary_only_between_chunks(pieces: list[bytes]) -> None:
    decoder = ChunkedDecoder()
    for piece in pieces:
        wire = chunk(piece)
        assert decoder.at_boundary
        for byte in wire[:-1]:
            decoder.feed(bytes((byte,)))
            assert not decoder.at_boundary
        decoder.feed(wire[-1:])
    assert decoder.at_boundary


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n", b"z\r\nx\r\n", b"-1\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"5_0\r\n", b" \r\n",
        b"5\r\nhelloX\r\n", b"5\r\nhello!\r\n0\r\n\r\n", b"2\r\nhello\r\n", b"f" * 16 + b"\r\n", b"1" * 300,
        b"5;" + b"x" * 300, "\u0665\r\nhello\r\n".encode(), b"0\r\n" + b"x" * 20_000,
    ],
)  # fmt: skip
def test_what_is_no_chunk_is_refused(wire: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkedDecoder().feed(wire)


@given(st.binary(max_size=80))
def test_any_bytes_end_in_payload_or_a_framing_error(data: bytes) -> None:
    decoder = ChunkedDecoder()
    try:
        payload, _ = decoder.feed(data)
    except FramingError:
        return
    assert len(payload) <= len(data)
