"""Frames out of pieces of any size."""

from __future__ import annotations

import random

import pytest

from pymotor.fleet.prefix_frames import FrameReader, FrameTooLongError
from pymotor.fleet.prefix_queries import LENGTH_BYTES


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def given(reader: FrameReader) -> list[bytes]:
    """All that it has now."""
    frames: list[bytes] = []
    while (frame := reader.next()) is not None:
        frames.append(bytes(frame))
    return frames


@pytest.mark.parametrize("seed", range(30))
def test_every_frame_comes_once_and_whole_however_it_was_cut(seed: int) -> None:
    choose = random.Random(seed)
    contents = [choose.randbytes(choose.choice((0, 1, 3, 4, 5, 60, 5000))) for _ in range(40)]
    sent = b"".join(map(framed, contents))
    longest = choose.choice((1, 7, 300, 20_000))
    reader = FrameReader()
    frames: list[bytes] = []
    start = 0
    while start < len(sent):
        end = start + choose.randint(1, longest)
        reader.feed(sent[start:end])
        # Whoever is busy takes some now and the others later.
        if choose.random() < 0.7:
            frames += given(reader)
        elif (frame := reader.next()) is not None:
            frames.append(bytes(frame))
        start = end
    assert [*frames, *given(reader)] == contents
    assert reader.next() is None


def test_a_frame_is_there_with_its_last_byte() -> None:
    reader = FrameReader()
    for byte in framed(b"abc")[:-1]:
        reader.feed(bytes((byte,)))
        assert reader.next() is None
    reader.feed(b"c" + framed(b"de"))
    assert given(reader) == [b"abc", b"de"]


def test_a_frame_that_is_too_long_is_known_by_its_length_alone() -> None:
    reader = FrameReader(longest=10)
    reader.feed(framed(bytes(10)) + (11).to_bytes(LENGTH_BYTES, "little"))
    assert reader.next() == bytes(10)
    with pytest.raises(FrameTooLongError, match="11 bytes"):
        reader.next()
    reader.longest = 11
    reader.feed(bytes(11))
    assert given(reader) == [bytes(11)]


def test_a_large_frame_is_no_copy_and_a_small_one_keeps_nothing_else() -> None:
    reader = FrameReader()
    large = framed(bytes(1000))
    reader.feed(large)
    frame = reader.next()
    assert isinstance(frame, memoryview)
    assert frame.obj is large
    reader.feed(framed(b"small") + large)
    assert isinstance(reader.next(), bytes)


def test_nothing_is_left_of_what_was_cleared() -> None:
    reader = FrameReader()
    reader.feed(framed(b"abc")[:-1])
    assert reader.next() is None
    reader.clear()
    reader.feed(framed(b"de"))
    assert given(reader) == [b"de"]
