"""Media items: sizes from real headers, sources that may be used, what counts as media."""

from __future__ import annotations

import base64
import struct
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.media import MediaItem, check_source, image_size, media_kind
from pymotor.coordinator.api.surface import CHAT

SIDE = st.integers(1, 16383)


def png(width: int, height: int) -> bytes:
    """A PNG's signature and header chunk."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))


def gif(width: int, height: int) -> bytes:
    """A GIF's screen descriptor."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0)


def jpeg(width: int, height: int, marker: int = 0xC0, fill: bytes = b"") -> bytes:
    """A JPEG up to its frame header, with an application segment and a table before it."""
    app = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    table = b"\xff\xdb" + struct.pack(">H", 67) + bytes(65)
    frame = fill + bytes((0xFF, marker)) + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + app + table + frame


def webp_extended(width: int, height: int) -> bytes:
    """A WebP with a VP8X chunk."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides


def webp_lossless(width: int, height: int) -> bytes:
    """A WebP with a VP8L chunk."""
    bits = (width - 1) | (height - 1) << 14
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f" + bits.to_bytes(4, "little")


def webp_lossy(width: int, height: int) -> bytes:
    """A WebP with a VP8 key frame."""
    frame = b"\x30\x01\0" + b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8 " + struct.pack("<I", len(frame)) + frame


def url_of(data: bytes, media_type: str = "image/x") -> bytes:
    """As a data URL."""
    return f"data:{media_type};base64,".encode() + base64.b64encode(data)


@given(SIDE, SIDE, st.sampled_from((png, gif, jpeg, webp_extended, webp_lossless, webp_lossy)))
def test_sizes_from_headers(width: int, height: int, write: object) -> None:
    assert callable(write)
    assert image_size(url_of(write(width, height))) == (width, height)


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC9])
def test_every_kind_of_jpeg_frame(marker: int) -> None:
    assert image_size(url_of(jpeg(640, 480, marker, fill=b"\xff\xff"))) == (640, 480)


@given(
    st.binary(max_size=60),
    st.sampled_from((b"", png(5, 5)[:12], jpeg(5, 5)[:4], webp_lossy(5, 5)[:16], gif(5, 5)[:8])),
)
def test_no_bytes_break_it(data: bytes, start: bytes) -> None:
    size = image_size(url_of(start + data))
    assert size is None or len(size) == 2


NO_SIZE = (
    b"", b"data:", b"data:,x", b"data:image/png,plain", b"https://a/b.png", b"data:image/png;base64,",
    b"data:;base64,%%%",
)  # fmt: skip


@pytest.mark.parametrize("url", NO_SIZE)
def test_what_has_no_size(url: bytes) -> None:
    assert image_size(url) is None


def test_a_jpeg_whose_segments_have_no_length_ends() -> None:
    assert image_size(url_of(b"\xff\xd8" + b"\xff\xe0\0\0" * 1000)) is None


def item(url: str, kind: str = "image_url") -> MediaItem:
    """A media item with this URL."""
    return MediaItem(0, 0, kind, {kind: msgspec.Raw(msgspec.json.encode({"url": url}))})


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AA==", "https://a.example/b", "http://a/b", "HTTPS://A.example"]
)
def test_sources_engines_may_follow(url: str) -> None:
    check_source(item(url), "")


@pytest.mark.parametrize("url", [
    "javascript:alert(1)", "ftp://a/b", "gopher://a", "/etc/passwd", "etc/passwd", "", "file:", "blob:x", "\\\\host\\x",
    "file:///etc/passwd", "FILE:///etc/passwd", "http\0://x", "//host/path", "http//[::1", "file://[::1/x",
])  # fmt: skip
def test_sources_nobody_follows(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_source(item(url), "")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "path", ["/media/a.png", "/media/deep/er/a.png", "/media/x/../a.png", "/media/./a.png", "/media/%61.png"]
)
def test_files_inside_the_allowed_directory(path: str) -> None:
    for root in ("/media", "/media/"):
        check_source(item(f"file://{path}"), root)
        check_source(item(f"file://localhost{path}"), root)


@pytest.mark.parametrize("path", [
    "/media/../etc/passwd", "/media/%2e%2e/etc/passwd", "/media/..%2fetc/passwd", "/mediaother/a.png",
    "/etc/media/a.png",     "//media/../../etc/passwd", "/media/a/../../b", "/", "/media/%2e%2e%2fb",
])  # fmt: skip
def test_files_outside_the_allowed_directory(path: str) -> None:
    with pytest.raises(ApiError):
        check_source(item(f"file://{path}"), "/media")
    with pytest.raises(ApiError):
        check_source(item("file://other-host/media/a.png"), "/media")


@given(st.lists(st.sampled_from(("..", ".", "a", "%2e%2e", "%2E.", "media", "")), max_size=8))
def test_no_spelling_leaves_the_allowed_directory(parts: list[str]) -> None:
    import posixpath
    from urllib.parse import unquote

    path = "/media/" + "/".join(parts)
    real = posixpath.normpath(unquote(path))
    inside = real == "/media" or real.startswith("/media/")
    try:
        check_source(item(f"file://{path}"), "/media")
        allowed = True
    except ApiError:
        allowed = False
    assert allowed <= inside


def raw(**fields: object) -> dict[str, msgspec.Raw]:
    """A part as the gateway reads it."""
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}


def kind_of(**fields: object) -> str | None:
    """What an untrusted client's part counts as."""
    return media_kind(raw(**fields), trusted=False)


def test_what_counts_as_media() -> None:
    assert kind_of(type="text", text="x") is None
    assert kind_of(type="image_url", image_url={"url": "x"}) == "image_url"
    assert kind_of(image_url={"url": "x"}) == "image_url", "engines take it without a type"
    assert kind_of(type="input_audio", input_audio={"data": "", "format": "wav"}) == "input_audio"
    for broken in (
        raw(type="image_url"),
        raw(type=5),
        raw(type="image_embeds"),
        raw(type=["image_url"], image_url={}),
    ):
        with pytest.raises(ApiError):
            media_kind(broken, trusted=False)


def test_equal_items_are_the_same_whatever_message_they_stand_in() -> None:
    one, other, third = item("https://a/x.png"), item("https://a/x.png"), item("https://a/y.png")
    assert one.same_as(other)
    assert not one.same_as(third)
    detailed = MediaItem(0, 0, "image_url", raw(image_url={"url": "https://a/x.png", "detail": "low"}))
    assert not one.same_as(detailed), "an option may change the embedding"


def written(part: str, kind: str = "image_url") -> MediaItem:
    """The item of a content part in this JSON, as a request's body holds it."""
    body = f'{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}'.encode()
    (found,) = CHAT.read(CHAT, body, False).media
    assert found.kind == kind
    return found


LARGE = "QUJD" * 40000
SAME = (
    (
        '{"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD"}}',
        '{ "image_url" : { "url" :\n"data:image/png;base64,QUJD" } , "type": "image_url"}',
        '{"image_url": {"url": "data:image/png;base64,QUJD"}}',
        '{"type":"image_url","image_url":"data:image/png;base64,QUJD"}',
        '{"type":"image_url","image_url":{"url":"data:image\\/png;base64,QUJD"}}',
        '{"type":"image_url","image_url":{"url":"\\u0064ata:image/png;base64,QUJD"}}',
    ),
    (
        f'{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{LARGE}"}}}}',
        f'{{"type":"image_url", "image_url": {{"url": "data:image/png;base64,{LARGE}"}} }}',
        f'{{"type":"image_url","image_url":{{"url":"data:image\\/png;base64,{LARGE}"}}}}',
    ),
    (
        '{"type":"image_url","image_url":{"url":"https://a.example/b","detail":"high"},"x":{"a":[1,2]}}',
        '{"type":"image_url", "x": {"a": [1, 2]}, "image_url": {"detail": "high", "url": "https:\\/\\/a.example/b"}}',
    ),
)


@pytest.mark.parametrize("ways", SAME)
def test_however_it_is_written_it_is_one_item(ways: tuple[str, ...]) -> None:
    first, *others = map(written, ways)
    for other in others:
        assert other.key == first.key
        assert other.same_as(first)
        assert other.url is not None
        assert first.url is not None
        assert other.url[:60] == first.url[:60]


def test_a_sound_is_one_item_however_it_is_written() -> None:
    first = written('{"type":"input_audio","input_audio":{"data":"c28=","format":"wav"}}', "input_audio")
    again = written('{"type": "input_audio", "input_audio": {"format": "wav", "data": "c28="}}', "input_audio")
    assert (again.key, again.meaning) == (first.key, first.meaning)
    other = written('{"type":"input_audio","input_audio":{"data":"c28=","format":"mp3"}}', "input_audio")
    assert not other.same_as(first)


def test_what_says_something_else_is_another_item() -> None:
    url = "https://a.example/b"
    ways = (
        f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}","detail":"low"}}}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}","detail":"high"}}}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}"}},"detail":"high"}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}"}},"source.detail":"high"}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}"}},"options":{{"a":"x y"}}}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}"}},"options":{{"a":"xy"}}}}',
        f'{{"type":"image_url","image_url":{{"url":"{url}2"}}}}',
    )
    items = list(map(written, ways))
    assert not any(one.same_as(other) for one in items for other in items if one is not other)
    assert len({one.key for one in items}) == len(items)
