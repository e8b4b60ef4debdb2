"""Prompts counted by a real tokenizer, made on the spot; only where the library is installed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.prompt_tokenizer import FILE_NAME, PromptTokenizer, why_not

tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers library is optional")


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """With a tokenizer of whole words."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / FILE_NAME))
    return str(tmp_path)


def read(path: str, body: dict[str, Any]) -> RequestView:
    """The view of a body."""
    surface = SURFACES[path.encode()]
    return surface.read(surface, json.dumps({"model": "m", **body}).encode(), False)


class Counting:
    """Passes on to a tokenizer and counts the texts that it gets."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.texts = 0

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[Any]:
        self.texts += len(texts)
        found: list[Any] = self.inner.encode_batch(texts, add_special_tokens=add_special_tokens)
        return found


async def test_words_are_tokens_and_media_their_pixels(directory: str) -> None:
    counted = PromptTokenizer.load(directory, asyncio.get_running_loop())
    image = {"type": "image_url", "image_url": {"url": "http://x/y"}}
    chat = read(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "one two three"}]}]},
    )
    await counted.count(chat)
    assert chat.prompt_tokens == 3 + 4 + chat.media[0].tokens
    text = read("/v1/completions", {"prompt": ["one two", "three four five"]})
    await counted.count(text)
    assert text.prompt_tokens == 2 + 3
    ids = read("/v1/completions", {"prompt": [5, 6, 7]})
    await counted.count(ids)
    assert ids.prompt_tokens == 3
    message = read(
        "/v1/messages", {"max_tokens": 1, "system": "be kind", "messages": [{"role": "user", "content": "hi"}]}
    )
    await counted.count(message)
    assert message.prompt_tokens == 3 + 8


async def test_a_chat_that_goes_on_costs_only_what_is_new(directory: str) -> None:
    counting = Counting(tokenizers.Tokenizer.from_file(str(Path(directory) / FILE_NAME)))
    counted = PromptTokenizer(counting, asyncio.get_running_loop())
    messages = [{"role": "user", "content": f"word {number} " * 400} for number in range(5)]
    for length in range(1, 6):
        view = read("/v1/chat/completions", {"messages": messages[:length]})
        await counted.count(view)
        assert view.prompt_tokens == length * (2 * 400 + 4)
        assert counting.texts == length


def test_a_directory_without_tokenizer_is_told(directory: str, tmp_path: Path) -> None:
    assert why_not(directory) is None
    assert FILE_NAME in (why_not(str(tmp_path / "elsewhere")) or "")
