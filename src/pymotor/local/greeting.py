"""A request to try a fleet with, as JSON and as a `curl` to paste."""

from __future__ import annotations

import base64
import json
import shlex
import struct
import zlib
from typing import Any

from pymotor.control_plane.tls import ClientTLS

KEY_VARIABLE = "PYMOTOR_API_KEY"
"""The variable with the API key of requests that `pymotor up` makes itself."""


def first_request(model: str, *, with_image: bool, side: int = 64) -> dict[str, Any]:
    """A chat completion; with an image, `side` pixels high and wide, where the fleet takes images."""
    text = {"type": "text", "text": "What is the text in the illustrate?"}
    image = {"type": "image_url", "image_url": {"url": sample_image_url(side)}}
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [image, text] if with_image else "Say hello."},
        ],
        "max_tokens": 24,
        "temperature": 0,
    }


def curl_command(url: str, request: dict[str, Any], *, with_key: bool = False, tls: ClientTLS | None = None) -> str:
    """The request as a shell command; `-i` shows the headers, `Server-Timing` among them. `with_key`: it shows the API
    key that is in the shell's `PYMOTOR_API_KEY`; `tls`: the fleet's own certificate."""
    key = f'    -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n' if with_key else ""
    if tls is not None:
        files = tls.files
        shown = f"--cacert {shlex.quote(files.ca_file)} --cert {shlex.quote(files.cert_file)}"
        key += f"    {shown} \\\n    --key {shlex.quote(files.key_file)} \\\n"
    return (
        f"curl -i {url}/v1/chat/completions \\\n"
        f"    -H 'Content-Type: application/json' \\\n{key}"
        f"    -d {shlex.quote(json.dumps(request))}"
    )


def sample_image_url(side: int = 64) -> str:
    """A PNG (a ring on a plain ground, `side` x `side` pixels, 8-bit grey) as a data URL of a few hundred bytes."""
    centre = (side - 1) / 2
    rows = bytearray()
    for y in range(side):
        rows.append(0)
        for x in range(side):
            distance = ((x - centre) ** 2 + (y - centre) ** 2) ** 0.5
            rows.append(32 if side * 0.25 < distance < side * 0.4 else 224)
    content = b"\x89PNG\r\n\x1a\n"
    content += _png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    content += _png_chunk(b"IDAT", zlib.compress(bytes(rows), 9))
    content += _png_chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    """Length, type, data and CRC-32 of type and data (PNG specification, section 5.3)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
