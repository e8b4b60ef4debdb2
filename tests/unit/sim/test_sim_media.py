"""Sizes of images, tokens of media, and the files embeddings travel in."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pymotor.engines.sim.image_size import image_size
from pymotor.engines.sim.media import FACTOR, MAX_PIXELS, MIN_PIXELS, PATCH, MediaReader, grid_of
from pymotor.engines.sim.stores import DirectoryEmbeddingStore, DirectoryKVStore, read_tensor, write_tensor

sides = st.integers(1, 2_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (33, 1999)])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"progressive": True}, {"exif": b"Exif\0\0" + b"x" * 300}])
def test_sizes_are_those_pillow_sees(kind: str, size: tuple[int, int], options: dict[str, object]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, (7, 8, 9)).save(file, kind, **options)
    assert image_size(file.getvalue()) == size


@given(
    st.binary(max_size=64),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 "]),
)
def test_no_bytes_break_it(data: bytes, start: bytes) -> None:
    size = image_size(start + data)
    assert size is None or (size[0] > 0 and size[1] > 0)


@given(sides, sides)
def test_grids_are_even_and_bounded(width: int, height: int) -> None:
    rows, columns = grid_of(width, height)
    assert rows % 2 == columns % 2 == 0
    pixels = rows * columns * PATCH**2
    assert pixels >= MIN_PIXELS
    assert pixels <= MAX_PIXELS or min(rows, columns) == 2


def test_a_grid_of_an_ordinary_image() -> None:
    assert grid_of(640, 480) == (30, 40)
    assert grid_of(FACTOR, FACTOR) == (4, 4)
    assert grid_of(10_000, 10_000)[0] * PATCH <= 2048


def test_other_media_have_tokens() -> None:
    reader = MediaReader("m")
    video = reader.read({"type": "video_url", "video_url": {"url": "https://x/v.mp4"}}, {}, {})
    audio = reader.read({"type": "input_audio", "input_audio": {"data": "AAAA" * 1000, "format": "wav"}}, {}, {})
    assert video is not None
    assert audio is not None
    assert video.tokens == 8 * 8 * 8
    assert audio.tokens == audio.metadata["audio_num_tokens"][0] == 3
    assert reader.read({"type": "text", "text": "x"}, {}, {}) is None


def test_tensor_files(tmp_path: Path) -> None:
    words = np.arange(10, dtype=np.uint64)
    store = DirectoryEmbeddingStore(tmp_path)
    assert store.load("abc") is None
    store.save("abc", words)
    loaded = store.load("abc")
    assert loaded is not None
    assert (loaded == words).all()
    path = tmp_path / "abc" / "encoder_cache.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        store.load("abc")
    write_tensor(path, "other", words)
    with pytest.raises(ValueError, match="damaged"):
        read_tensor(path, "ec_cache")


@pytest.mark.parametrize("identifier", ["../../escape", "/etc/passwd", ".", "..", "a/b", "", "x" * 5000])
def test_identifiers_never_leave_the_store(tmp_path: Path, identifier: str) -> None:
    inside = tmp_path / "store"
    store = DirectoryEmbeddingStore(inside)
    store.save(identifier, np.arange(3, dtype=np.uint64))
    assert [path for path in tmp_path.rglob("*.safetensors") if inside not in path.parents] == []
    assert store.load(identifier) is not None


def test_a_prompt_of_full_blocks_and_one_token_is_never_found(tmp_path: Path) -> None:
    store = DirectoryKVStore(tmp_path, 4)
    for length, found in ((4, False), (5, False), (6, True), (8, True), (9, False), (10, True)):
        tokens = np.full(length, length, dtype=np.uint64)
        store.save(tokens, ("mm",), np.arange(length, dtype=np.uint64))
        assert (store.load(tokens, ("mm",)) is not None) == found, length
        assert store.load(tokens, ()) is None
