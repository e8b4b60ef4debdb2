"""Media items in a request: what they are, what they weigh, where they may come from.

The gateway never opens a file or fetches a URL: a size comes from the bytes of a data URL or is estimated.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
import struct
from urllib.parse import unquote, urlsplit

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError, invalid
from pymotor.coordinator.api.media_meaning import Part, key_of, plain, text_of
from pymotor.coordinator.api.place import offset_in

PIXELS_A_SIDE = 32
"""A media token of Qwen-VL covers 32 x 32 pixels (14- or 16-pixel patches, merged 2 x 2)."""
DEFAULT_IMAGE_TOKENS = 1024
DEFAULT_VIDEO_TOKENS = 8192
DEFAULT_AUDIO_TOKENS = 512
SNIFFED_BYTES = 65536
"""So much of a data URL is looked at."""
_HEADER_CHARACTERS = 64
_JPEG = b"\xff\xd8"
_QUOTE = ord('"')

MODALITIES = {
    "image_url": "image",
    "input_image": "image",
    "video_url": "video",
    "audio_url": "audio",
    "input_audio": "audio",
}
"""Modality of each kind of content part of chat completions that carries media."""
_SOURCE_KEYS = {"input_image": "image_url"}
"""The key of a part whose value names the media, where it is not the part's kind."""

BARRED_PART_KEYS = frozenset(("uuid", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "image_pil"))
"""They name cache entries of all users, or tensors to load, and can kill an engine."""

_DATA_URL = re.compile(rb'\s*(?:\{\s*"url"\s*:\s*)?"data:')
"""The start of a media part's value that is a data URL or an object with nothing before it."""

_strings = msgspec.json.Decoder(str)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


class MediaItem:
    """One content part that carries media. Paths whose parts look otherwise than chat's have a subclass."""

    __slots__ = ("key", "kind", "meaning", "message", "modality", "part", "position", "size", "tokens", "url")

    def __init__(self, message: int, position: int, kind: str, part: Part, body: bytes | None = None) -> None:
        """`message` and `position` say where it stands in `body`, which need not be told; `kind` is the part's type.
        Raises `ApiError` (400)."""
        self.message = message
        self.position = position
        self.kind = kind
        self.modality = MODALITIES.get(kind, kind)
        self.part = part
        self.size = len(memoryview(self.source))
        """Bytes of the request that are the media, not text."""
        self.url, self.meaning = self._read(body)
        """The first bytes of its URL (all, unless it is a large data URL), or None for inline audio; and all that the
        part says but its type, alike for all ways to write it in JSON."""
        self.key = key_of(self.meaning)
        """Hash of what it is, the gateway's own; for affinity, never for correctness."""
        self.tokens = _tokens(self.modality, self.url)
        """What it is expected to cost an encoder, in tokens."""

    @property
    def source(self) -> msgspec.Raw:
        """The value that names the media."""
        return self.part[_SOURCE_KEYS.get(self.kind, self.kind)]

    def _read(self, body: bytes | None) -> tuple[bytes | None, Part]:
        """See `url` and `meaning`."""
        url, meaning = _read_source(self.kind, self.source, body)
        named = _SOURCE_KEYS.get(self.kind, self.kind)
        for name, raw in self.part.items():
            if name not in ("type", named):
                meaning["part." + name] = plain(raw, body)
        return url, meaning

    @property
    def chat_part(self) -> Part:
        """The part as chat completions have it: what an encoder is asked with. May copy the media."""
        return self.part

    def same_as(self, other: MediaItem) -> bool:
        """Whether both parts say the same, so that one encoding serves both."""
        return self.key == other.key and self.kind == other.kind and self.meaning == other.meaning


def media_kind(part: Part, trusted: bool) -> str | None:
    """The part's type if it carries media; engines also accept a part without `type` that has a media key."""
    stated = part.get("type")
    if stated is not None:
        try:
            kind = _strings.decode(stated)
        except UNREADABLE as error:
            raise invalid("a content part's type must be a string", "messages") from error
        if kind in BARRED_PART_KEYS and not trusted:
            raise barred(kind)
        if kind not in MODALITIES:
            return None
        source = _SOURCE_KEYS.get(kind, kind)
        if source not in part:
            raise invalid(f"a content part of type {kind} must have the key {source}", "messages")
        return kind
    return next((kind for kind in MODALITIES if kind in part), None)


def barred(field: str) -> ApiError:
    """The error for a field that clients may not send."""
    return ApiError(
        400,
        f"{field} is set by the gateway and may not be sent by a client",
        param=field,
        code="field_not_allowed",
    )


def _read_source(kind: str, raw: msgspec.Raw, body: bytes | None) -> tuple[bytes | None, Part]:
    """The URL in a media part's value, or its first bytes if it is a plain data URL, None for inline audio; and what
    the value says."""
    view = memoryview(raw)
    opening = _DATA_URL.match(view[:64])
    if opening is not None:
        start = opening.end() - len(b"data:")
        # Base64 needs no escapes: a quote before the last one means that there is more than a URL.
        end = _end_of_only_string(raw, start, body)
        if end >= 0:
            return bytes(view[start : min(end, start + SNIFFED_BYTES)]), {"url": msgspec.Raw(view[start - 1 : end + 1])}
    try:
        if kind != "input_audio" and view[0] == _QUOTE:
            text, written = text_of(raw)
            return text, {"url": written}
        members = _objects.decode(raw)
        url: bytes | None = None
        meaning = Part()
        if kind != "input_audio":
            named = members.pop("url", None)
            if named is None:
                raise invalid(f"{kind} must have a url", "messages")
            url, meaning["url"] = text_of(named)
        for name, value in members.items():
            meaning["source." + name] = plain(value, body)
        return url, meaning
    except UNREADABLE as error:
        raise invalid(f"{kind} must be an object with a url", "messages") from error


def _end_of_only_string(raw: msgspec.Raw, start: int, body: bytes | None) -> int:
    """Where in `raw` the string that begins before `start` ends, if it has no escapes and ends the value, else -1;
    `body` is what it was read from, where that is at hand."""
    size = len(memoryview(raw))
    at = offset_in(body, raw) if body is not None and size > SNIFFED_BYTES else -1
    text = body if body is not None and at >= 0 else bytes(raw)
    before = max(at, 0)
    end = size + before
    quote = text.find(b'"', start + before, end)
    ends = end - quote < 16 and text[quote + 1 : end].strip() in (b"", b"}")
    return quote - before if ends and text.find(b"\\", start + before, quote) < 0 else -1


def check_source(item: MediaItem, allowed_local_media_path: str) -> None:
    """Refuse a URL whose scheme no engine should follow, or a file outside the engine's own allowed directory."""
    url = item.url
    if url is None or url.startswith((b"data:", b"https://", b"http://")):
        return
    try:
        parts = urlsplit(url.decode())
    except ValueError as error:
        raise invalid(f"{item.kind} is not a URL", "messages") from error
    if parts.scheme in ("http", "https", "data"):
        return
    if parts.scheme != "file":
        raise invalid(f"{item.kind} must be a data:, http:, https: or file: URL", "messages")
    path = posixpath.normpath(unquote(parts.path))
    root = posixpath.normpath(allowed_local_media_path) if allowed_local_media_path else ""
    inside = root and (path == root or path.startswith(root.rstrip("/") + "/"))
    if not inside or parts.netloc not in ("", "localhost"):
        raise invalid("file: URLs are only served from the directory in allowed-local-media-path", "messages")


def _tokens(modality: str, url: bytes | None) -> int:
    if modality == "video":
        return DEFAULT_VIDEO_TOKENS
    if modality == "audio":
        return DEFAULT_AUDIO_TOKENS
    size = image_size(url) if url is not None else None
    if size is None:
        return DEFAULT_IMAGE_TOKENS
    width, height = size
    return max(1, -(-width // PIXELS_A_SIDE) * -(-height // PIXELS_A_SIDE))


def image_size(url: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from the header of a base64 data URL (PNG, JPEG, GIF, WebP), else None."""
    if not url.startswith(b"data:"):
        return None
    comma = url.find(b",", 5, 512)
    if comma < 0 or not url[:comma].endswith(b";base64"):
        return None
    start = _decoded(url[comma + 1 : comma + 1 + _HEADER_CHARACTERS])
    try:
        if start.startswith(_JPEG):
            # Of a JPEG the size stands behind tables and, often, a preview.
            return _jpeg(_decoded(url[comma + 1 : comma + 1 + SNIFFED_BYTES]))
        return _dimensions(start)
    except (struct.error, IndexError):
        return None


def _decoded(text: bytes) -> bytes:
    """As much of the base64 text as is whole; nothing when it is none."""
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _dimensions(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
        return width, height
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    form = data[12:16]
    if form == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None
