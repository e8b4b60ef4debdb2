"""The estimate of a prompt's length: scripts, escapes, token ids; an image counts by its pixels only."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.prompt_length import text_tokens, token_ids
from pymotor.coordinator.api.request_view import RequestView

CHINESE = "人工智能正在改变世界各地的生活和工作方式" * 10
RUSSIAN = "Искусственный интеллект меняет нашу жизнь и работу " * 10
ENGLISH = "Artificial intelligence changes how we live and work " * 10


def raw(value: object, *, ascii_only: bool = False) -> msgspec.Raw:
    """The value as JSON text."""
    return msgspec.Raw(json.dumps(value, ensure_ascii=ascii_only).encode())


@pytest.mark.parametrize("ascii_only", [False, True], ids=["as UTF-8", "escaped"])
@pytest.mark.parametrize(
    ("text", "characters_a_token"), [(ENGLISH, 4.2), (RUSSIAN, 2.5), (CHINESE, 1.5)], ids=["en", "ru", "zh"]
)
def test_scripts_are_estimated_within_a_factor_of_two(text: str, characters_a_token: float, ascii_only: bool) -> None:
    estimate = text_tokens([raw(text, ascii_only=ascii_only)])
    assert 0.5 < estimate / (len(text) / characters_a_token) < 2


def test_a_long_text_is_like_its_beginning() -> None:
    exact = sum(text_tokens([raw(CHINESE, ascii_only=True)]) for _ in range(1000))
    assert abs(text_tokens([raw(CHINESE * 1000, ascii_only=True)]) / exact - 1) < 0.05


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=20), min_size=1, max_size=5))
def test_token_ids_are_counted(prompts: list[list[int]]) -> None:
    total = sum(map(len, prompts))
    assert token_ids(raw(prompts)) == total
    assert token_ids(raw([number for prompt in prompts for number in prompt])) == total
    view = read("/v1/completions", {"model": "m", "prompt": prompts})
    assert view.prompt_tokens == total
    assert len(view.prompts) == (len(prompts) if len(prompts) > 1 else 0)
    assert read("/v1/completions", {"model": "m", "prompt": prompts[0]}).prompt_tokens == len(prompts[0])


@given(st.text())
def test_text_is_no_token_ids(text: str) -> None:
    assert token_ids(raw(text)) is None
    assert token_ids(raw([text])) is None


def read(path: str, body: dict[str, Any]) -> RequestView:
    """The view of a body."""
    surface = SURFACES[path.encode()]
    return surface.read(surface, json.dumps(body).encode(), False)


PIXELS = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (64).to_bytes(4, "big") * 2 + bytes(3_000_000)).decode()
DATA_URL = f"data:image/png;base64,{PIXELS}"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA_URL}}]}]
    },
    "/v1/messages": {
        "max_tokens": 5,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXELS}}],
            }
        ],
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": DATA_URL}]}],
    },
    "/v1/embeddings": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA_URL}}]}]
    },
}


@pytest.mark.parametrize("path", BODIES)
def test_an_image_counts_by_its_pixels_whatever_its_bytes(path: str) -> None:
    view = read(path, {"model": "m", **BODIES[path]})
    assert [item.tokens for item in view.media] == [4]
    assert 4 < view.prompt_tokens < 100
