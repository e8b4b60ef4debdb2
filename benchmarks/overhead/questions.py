"""The requests of a benchmark run: what a client sends, prepared before anything is measured."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from overhead.wire import MODEL

SMALL = 600
"""Bytes of an ordinary request's body."""
CLIENTS_KEY = b"none"
"""What clients show in `Authorization`."""
LARGE = 1 << 20
"""Bytes of a large request's body."""
_PROSE = (
    "the quick engine hands a cache of keys and values to its neighbour while another prompt waits for a free "
    "block and nobody knows how long the answer is going to be before the last token has been drawn from it"
)


def bodies(kind: str, stream: bool, count: int, seed: int = 7) -> list[bytes]:
    """`count` different bodies. `kind`: `small` (600 bytes of text), `image` (1 MiB, nearly all of it an image
    as data URL), `text` (1 MiB of text)."""
    make = {"small": _small, "image": _image, "text": _text}[kind]
    return [make(random.Random(seed * 1_000_003 + number), stream) for number in range(count)]


def framed(body: bytes, port: int) -> bytes:
    """The body as a whole HTTP/1.1 request, with the headers that the OpenAI SDK for Python sends."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        "Accept: application/json\r\nAccept-Encoding: identity\r\nConnection: keep-alive\r\n"
        "Content-Type: application/json\r\nUser-Agent: AsyncOpenAI/Python 1.60.0\r\n"
        "X-Stainless-Lang: python\r\nX-Stainless-Async: async:asyncio\r\n"
        f"Authorization: Bearer {CLIENTS_KEY.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _request(content: Any, stream: bool) -> bytes:
    return json.dumps(
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": content},
            ],
            "max_tokens": 64,
            "temperature": 0.7,
            "top_p": 0.95,
            "stream": stream,
        }
    ).encode()


def _small(chance: random.Random, stream: bool) -> bytes:
    return _filled(chance, stream, SMALL)


def _text(chance: random.Random, stream: bool) -> bytes:
    return _filled(chance, stream, LARGE)


def _filled(chance: random.Random, stream: bool, size: int) -> bytes:
    room = size - len(_request("", stream))
    words = " ".join(chance.choices(_PROSE.split(), k=room // 3))
    return _request(words[:room], stream)


def _image(chance: random.Random, stream: bool) -> bytes:
    """The header is that of a PNG of 1,024 × 768 pixels; what follows is noise, which no gateway decodes."""
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1024).to_bytes(4, "big") + (768).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    text = {"type": "text", "text": f"What is in picture {chance.randrange(10**9)}?"}
    empty = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, text]
    room = LARGE - len(_request(empty, stream))
    data = base64.b64encode(header + chance.randbytes(room // 4 * 3 - len(header))).decode()
    return _request([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}, text], stream)
