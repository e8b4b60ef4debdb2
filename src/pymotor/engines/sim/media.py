"""Media in requests: from a content part to an item with identifier, size in tokens and metadata.

Sizes follow Qwen3-VL: patches of 16 pixels, 2 by 2 patches to a token, so 32 by 32 pixels. URLs are never
fetched: for `http(s)` the URL itself stands for the content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pymotor.engines.sim.errors import MediaUnavailableError, RequestError
from pymotor.engines.sim.image_size import image_size

PATCH = 16
MERGE = 2
FACTOR = PATCH * MERGE
MIN_PIXELS = 4 * FACTOR * FACTOR
MAX_PIXELS = 4096 * FACTOR * FACTOR
UNREACHABLE_PORT = 1
"""`http(s)` URLs with this port stand for media that cannot be had."""
UNKNOWN_SIZE = (512, 512)
"""Assumed of an image behind an `http(s)` URL."""
VIDEO_FRAMES = 8
"""Temporal patches assumed of any video; its frames' size is not looked for."""
VIDEO_SIZE = (256, 256)
AUDIO_BYTES_PER_TOKEN = 1_280
"""16 kHz, 16 bits: 25 tokens a second."""


@dataclass(frozen=True)
class Media:
    """A content part, resolved; `MediaItem` without its place in the prompt."""

    identifier: str
    modality: str
    tokens: int
    metadata: dict[str, Any]
    content_digest: bytes | None


@dataclass(frozen=True)
class MediaReader:
    """Turns content parts into `Media` under the engine's settings."""

    model: str
    """As on the command line: identifiers depend on it, as vLLM's do."""
    allowed_local_media_path: str = ""
    embeds_enabled: bool = False

    def read(
        self, part: Mapping[str, Any], processor_kwargs: Mapping[str, Any], io_kwargs: Mapping[str, Any]
    ) -> Media | None:
        """The item of a content part, None when the part is no media. Raises `RequestError`."""
        kind = part.get("type")
        uuid = part.get("uuid")
        if uuid is not None and not isinstance(uuid, str):
            raise RequestError("`uuid` must be a string.", param="messages")
        if kind in ("image_embeds", "audio_embeds", "video_embeds"):
            return self._embeds(str(kind), part.get(str(kind)), uuid)
        if kind in ("image_url", "video_url", "audio_url"):
            modality = str(kind)[:5]
            content = self._content(_url(part, str(kind)))
        elif kind == "input_image":
            modality = "image"
            content = self._content(_url(part, "image_url"))
        elif kind == "input_audio":
            modality = "audio"
            content = _input_audio(part.get("input_audio"))
        else:
            return None
        options = {"processor": dict(processor_kwargs), "io": io_kwargs.get(modality) or {}}
        kwargs = json.dumps(options, sort_keys=True) if processor_kwargs or options["io"] else ""
        seen = hashlib.sha256(content + b"\0" + kwargs.encode()).digest()
        tokens, metadata = _size(modality, content, processor_kwargs)
        if uuid and not kwargs:
            identifier = uuid
        else:
            named = uuid.encode() if uuid else content
            identifier = hashlib.sha256(
                b"\0".join((self.model.encode(), modality.encode(), kwargs.encode(), named))
            ).hexdigest()
        return Media(identifier, modality, tokens, metadata, seen)

    def _content(self, url: str) -> bytes:
        scheme = urlsplit(url).scheme.lower()
        if scheme == "data":
            head, separator, data = url.partition(",")
            if not separator or not head.endswith(";base64"):
                raise RequestError(
                    "Only base64 data URLs are supported for now.", status=501, kind="NotImplementedError"
                )
            return _decode_base64(data)
        if scheme in ("http", "https"):
            if _port(url) == UNREACHABLE_PORT:
                raise MediaUnavailableError(f"Cannot connect to {url}")
            return url.encode()
        if scheme == "file":
            return self._local(unquote(urlsplit(url).path))
        raise RequestError("The URL must be either a HTTP, data or file URL.")

    def _local(self, path: str) -> bytes:
        if not self.allowed_local_media_path:
            raise MediaUnavailableError("Cannot load local files without `--allowed-local-media-path`.")
        allowed = Path(self.allowed_local_media_path).resolve()
        resolved = Path(path).resolve()
        if allowed not in resolved.parents:
            raise MediaUnavailableError(
                f"The file path {path} must be a subpath of `--allowed-local-media-path {allowed}`."
            )
        if not resolved.is_file():  # a pipe would block the engine
            raise MediaUnavailableError(f"{path} is no file.")
        try:
            return resolved.read_bytes()
        except OSError as error:
            raise MediaUnavailableError(f"Cannot read {path}: {error.strerror}") from error

    def _embeds(self, kind: str, metadata: Any, uuid: str | None) -> Media:
        modality = kind[:5]
        if not self.embeds_enabled:
            raise RequestError(f"You must set `--enable-mm-embeds` to input `{kind}`", param=kind)
        if not isinstance(metadata, dict):
            raise RequestError("The simulated engine takes embeds as a map of metadata only.", param=kind)
        if modality == "audio":
            count = metadata.get("audio_num_tokens")
            tokens = _numbers(count, 1, "audio_num_tokens")[0]
        else:
            time, height, width = _numbers(metadata.get(f"{modality}_grid_thw"), 3, f"{modality}_grid_thw")
            tokens = time * (height // MERGE) * (width // MERGE)
        if tokens <= 0:
            raise RequestError(f"Invalid metadata array in `{kind}`.", param=kind)
        named = uuid or hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
        return Media(named, modality, tokens, dict(metadata), None)


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError as error:
        raise RequestError(f"Invalid URL: {error}") from error


def _url(part: Mapping[str, Any], kind: str) -> str:
    value = part.get(kind)
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise RequestError(f"`{kind}` needs a `url`.", param="messages", kind="Bad Request")
    return url


def _input_audio(value: Any) -> bytes:
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        raise RequestError("`input_audio` needs `data` and `format`.", param="messages", kind="Bad Request")
    return _decode_base64(value["data"])


def _decode_base64(data: str) -> bytes:
    try:
        return base64.b64decode(unquote(data) if "%" in data else data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"Invalid base64 data: {error}") from error


def _numbers(value: Any, count: int, name: str) -> list[int]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(number, int) and not isinstance(number, bool) for number in value):
        raise RequestError(f"Metadata {name} must be a finite numeric array.", param=name)
    numbers: list[int] = value
    return numbers


def _size(modality: str, content: bytes, processor_kwargs: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    if modality == "audio":
        tokens = max(1, math.ceil(len(content) / AUDIO_BYTES_PER_TOKEN))
        return tokens, {"audio_num_tokens": [tokens]}
    if modality == "video":
        height, width = (side // PATCH for side in VIDEO_SIZE)
        grid = [VIDEO_FRAMES, height, width]
        return VIDEO_FRAMES * (height // MERGE) * (width // MERGE), {"video_grid_thw": grid}
    if content.startswith((b"http://", b"https://")):
        width, height = UNKNOWN_SIZE
    else:
        size = image_size(content)
        if size is None:
            raise RequestError("Failed to load image: cannot identify image file")
        width, height = size
    rows, columns = grid_of(width, height, *_pixel_limits(processor_kwargs))
    return rows * columns // MERGE**2, {"image_grid_thw": [1, rows, columns]}


def _pixel_limits(processor_kwargs: Mapping[str, Any]) -> tuple[int, int]:
    limits = []
    for name, default in (("min_pixels", MIN_PIXELS), ("max_pixels", MAX_PIXELS)):
        value = processor_kwargs.get(name, default)
        if not isinstance(value, int) or value <= 0:
            raise RequestError(f"`{name}` must be a positive integer.", param="mm_processor_kwargs")
        limits.append(value)
    return limits[0], max(limits)


def grid_of(width: int, height: int, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Rows and columns of patches for an image: sides rounded to 32, scaled to stay within the pixel limits."""

    def rounded(scale: float, rounding: Callable[[float], int]) -> tuple[int, int]:
        tall, wide = (max(1, rounding(side * scale / FACTOR)) * FACTOR for side in (height, width))
        return tall, wide

    tall, wide = rounded(1.0, round)
    if tall * wide > max_pixels:
        tall, wide = rounded(math.sqrt(max_pixels / (height * width)), math.floor)
    elif tall * wide < min_pixels:
        tall, wide = rounded(math.sqrt(min_pixels / (height * width)), math.ceil)
    return tall // PATCH, wide // PATCH
