"""Prompts counted in tokens by the model's own tokenizer, where configuration names it (`tokenizer_path`).

Only `tokenizer.json` is read, by the `tokenizers` library, which runs no code of the model's. What a chat template
adds is taken for a few tokens a message; media count by their pixels as ever. Messages are counted one by one and
remembered: of a chat that goes on only what is new costs anything. Long texts are counted in a thread, where the
library gives other threads their turn.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import xxhash

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import RequestView

FILE_NAME = "tokenizer.json"
_TEXT_FIELDS = ("messages", "prompt", "input", "system", "instructions", "tools")
_MEDIA_KEYS = frozenset((
    "image_url", "input_image", "video_url", "audio_url", "input_audio", "source", "image_embeds", "file_data",
))  # fmt: skip
_NAMES = frozenset(("type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "detail"))
_MARKS_A_MESSAGE = 4
"""Tokens that a chat template puts around a message."""
_LOOP_CHARACTERS = 1024
"""A text longer than that takes the event loop about a millisecond."""
_REMEMBERED = 8192
_REMEMBERED_FROM = 64
"""Characters; shorter texts are as quickly counted as looked up."""


class Tokenizer(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[Any]:
        """An encoding for each text; its length is the number of tokens."""


def why_not(directory: str) -> str | None:
    """Why prompts cannot be counted with the tokenizer in `directory`; None when they can."""
    if importlib.util.find_spec("tokenizers") is None:
        return "the tokenizers library is not installed; pip install tokenizers"
    if not (Path(directory) / FILE_NAME).is_file():
        return f"there is no {FILE_NAME} in {directory}"
    return None


class PromptTokenizer:
    """Counts the prompts of one worker."""

    def __init__(self, tokenizer: Tokenizer, loop: asyncio.AbstractEventLoop) -> None:
        self._tokenizer = tokenizer
        self._loop = loop
        self._counts: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def load(cls, directory: str, loop: asyncio.AbstractEventLoop) -> PromptTokenizer:
        """Read the tokenizer in `directory`; takes about a second for a large vocabulary. Raises `ImportError`, and
        `Exception` as the library does for a file that it cannot read."""
        # A pool of threads of its own would compete with the workers for the processors.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer as Library

        return cls(Library.from_file(str(Path(directory) / FILE_NAME)), loop)

    async def count(self, view: RequestView) -> None:
        """Put the length of the request's prompt into the view; prompts of token ids keep theirs."""
        try:
            texts = [text for name in _TEXT_FIELDS if name in view.fields for text in _texts(view.fields[name])]
        except UNREADABLE:
            # The engine says what is wrong with it.
            return
        if not texts:
            return
        total = _MARKS_A_MESSAGE * len(texts) if "prompt" not in view.fields else 0
        new: list[tuple[int, str]] = []
        for text in texts:
            key = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
            known = self._counts.get(key)
            if known is None:
                new.append((key, text))
            else:
                self._counts.move_to_end(key)
                total += known
        if new:
            total += await self._count_new(new)
        view.prompt_tokens = total + sum([item.tokens for item in view.media])

    async def _count_new(self, new: list[tuple[int, str]]) -> int:
        texts = [text.encode("utf-8", "replace").decode() for _, text in new]
        if sum(map(len, texts)) > _LOOP_CHARACTERS:
            lengths = await self._loop.run_in_executor(None, self._lengths, texts)
        else:
            lengths = self._lengths(texts)
        for (key, text), length in zip(new, lengths, strict=True):
            if len(text) >= _REMEMBERED_FROM:
                self._counts[key] = length
        while len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        return sum(lengths)

    def _lengths(self, texts: list[str]) -> list[int]:
        # Of the library's functions this one lets other threads run.
        return [len(found) for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


def _texts(raw: msgspec.Raw) -> Iterator[str]:
    """The texts in a field's value; none for media and token ids."""
    return _walk(msgspec.json.decode(raw))


def _walk(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if value and isinstance(value[0], int):
            return
        for item in value:
            yield from _walk(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _MEDIA_KEYS and key not in _NAMES:
                yield from _walk(item)
