"""Requests as a gateway sends them to engines, leg by leg, and their answers taken apart."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from engines_under_test import MODEL, EnginesUnderTest

JSON = dict[str, Any]
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TIMEOUT = httpx.Timeout(400.0)
"""Four real engines on two processors were seen to take a minute for a handoff that takes milliseconds elsewhere."""
PREFILL_FOR_SOMEBODY: JSON = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""`kv_transfer_params` that ask prefill to keep its KV for whoever comes with what it answers."""


def png(seed: int, width: int = 96, height: int = 96) -> bytes:
    """An image of random pixels, the same for the same arguments."""
    pixels = random.Random(seed)
    rows = b"".join(b"\0" + pixels.randbytes(3 * width) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def image(seed: int, width: int = 96, height: int = 96) -> JSON:
    """An `image_url` part with a data URL."""
    encoded = base64.b64encode(png(seed, width, height)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def text(words: str) -> JSON:
    """A `text` part."""
    return {"type": "text", "text": words}


def chat(*parts: JSON, **fields: Any) -> JSON:
    """A greedy chat request with these content parts and further fields."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": list(parts)},
    ]
    return {"model": MODEL, "messages": messages, "temperature": 0, **fields}


def post(base: str, body: JSON, path: str = CHAT, request_id: str | None = None) -> httpx.Response:
    """Send a body to an engine on a connection of its own: vLLM closes some after an error without saying so."""
    headers = {"X-Request-Id": request_id} if request_id else {}
    return httpx.post(base + path, json=body, headers=headers, timeout=TIMEOUT)


def answer(response: httpx.Response) -> JSON:
    """The JSON of a good answer. Raises AssertionError with the body of any other."""
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    body: JSON = response.json()
    return body


@dataclass(frozen=True)
class Stream:
    """A streamed answer."""

    status: int
    headers: Mapping[str, str]
    events: tuple[str, ...]
    """What stood after `data: `, in order."""

    @property
    def objects(self) -> list[JSON]:
        """All events but `[DONE]`, parsed."""
        return [json.loads(event) for event in self.events if event != "[DONE]"]


def stream(base: str, body: JSON, path: str = CHAT, request_id: str | None = None) -> Stream:
    """Send a body with `stream: true` and read its answer to the end; each event must be one `data:` line."""
    headers = {"X-Request-Id": request_id} if request_id else {}
    with httpx.stream("POST", base + path, json={**body, "stream": True}, headers=headers, timeout=TIMEOUT) as response:
        blocks = response.read().decode().split("\n\n")
        assert blocks.pop() == "", "the last event is not ended by an empty line"
        assert all(block.startswith("data: ") for block in blocks), blocks
        return Stream(response.status_code, dict(response.headers), tuple(block[6:] for block in blocks))


def token_ids(reply: JSON) -> list[int]:
    """The ids of the first choice, asked for with `return_token_ids`."""
    ids: list[int] = reply["choices"][0]["token_ids"]
    return ids


def encode(engines: EnginesUnderTest, part: JSON) -> JSON:
    """E's leg for one media item: the `*_embeds` part that stands for it from then on."""
    reply = answer(post(engines.encode, chat(part, max_tokens=1)))
    ((identifier, item),) = reply["ec_transfer_params"].items()
    modality = part["type"].removesuffix("_url")
    return {"type": f"{modality}_embeds", f"{modality}_embeds": item["metadata"], "uuid": identifier}


def prefill(engines: EnginesUnderTest, body: JSON, path: str = CHAT, request_id: str | None = None) -> JSON:
    """P's leg: its `kv_transfer_params`."""
    leg = {**body, "max_tokens": 1, "min_tokens": 1, "stream": False, "kv_transfer_params": PREFILL_FOR_SOMEBODY}
    for field in ("stream_options", "return_token_ids"):
        leg.pop(field, None)
    params: JSON = answer(post(engines.prefill, leg, path, request_id))["kv_transfer_params"]
    assert params, "prefill returned no kv_transfer_params"
    return params


def through_all_stages(engines: EnginesUnderTest, parts: Sequence[JSON], **fields: Any) -> JSON:
    """E for each media item, P with metadata only, D with metadata only: D's answer."""
    handed = [part if part["type"] == "text" else encode(engines, part) for part in parts]
    body = chat(*handed, **fields)
    return answer(post(engines.decode, {**body, "kv_transfer_params": prefill(engines, body)}))
