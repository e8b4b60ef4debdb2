"""Small images that differ in content, size and format, as data URLs."""

from __future__ import annotations

import base64
import struct
import zlib


def png(width: int, height: int, seed: int) -> bytes:
    """An RGB PNG whose pixels depend on `seed`."""
    rows = b"".join(b"\0" + bytes((seed * 31 + x * 7 + y) % 256 for x in range(width * 3)) for y in range(height))
    # The seed itself, in the last pixels: those above repeat after 256.
    rows = rows[:-4] + struct.pack(">I", seed)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def data_url(content: bytes, media_type: str = "image/png") -> str:
    """`content` as a base64 data URL."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def image(seed: int) -> str:
    """One of endlessly many images, of one of four sizes, as a data URL."""
    width, height = ((32, 32), (64, 64), (96, 64), (64, 128))[seed % 4]
    return data_url(png(width, height, seed))


def image_part(seed: int) -> dict[str, object]:
    """The image as a content part."""
    return {"type": "image_url", "image_url": {"url": image(seed)}}


def vision_chat(*seeds: int, text: str = "What is in the image?", **fields: object) -> dict[str, object]:
    """A greedy chat request with these images before a text."""
    content: list[object] = [*map(image_part, seeds), {"type": "text", "text": text}]
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0,
        "return_token_ids": True,
        **fields,
    }


def text_chat(text: str = "Tell me a story.", **fields: object) -> dict[str, object]:
    """A greedy chat request without media."""
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "temperature": 0,
        "return_token_ids": True,
        **fields,
    }
