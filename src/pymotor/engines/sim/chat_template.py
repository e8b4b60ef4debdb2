"""The chat template: messages between role marks, media in their places, and then the assistant's turn.

Every API that generates from messages comes through here, so that equal conversations are equal tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.fields import invalid
from pymotor.engines.sim.media import Media
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import MediaItem

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
_MEDIA_PARTS = (
    *("image_url", "input_image", "video_url", "audio_url", "input_audio"),
    *("image_embeds", "video_embeds", "audio_embeds"),
)


@dataclass(frozen=True)
class Prompt:
    """Token ids with placeholders, and what stands at them."""

    tokens: Words
    media: tuple[MediaItem, ...] = ()
    text: str | None = None
    """The prompt as text where it came as text."""


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Any,
    media: Sequence[Media],
    *,
    generation_prompt: bool = True,
    continue_final: bool = False,
) -> Prompt:
    """The prompt of a conversation. `media`: the items of all messages in order.

    `continue_final` leaves the last message open, so that the answer goes on with it. Raises `RequestError`.
    """
    pieces = _Pieces()
    if tools:
        pieces.turn("system", [msgspec.json.encode(tools).decode()])
    items = iter(media)
    last = len(messages) - 1
    for index, message in enumerate(messages):
        pieces.turn(_role(message), _content(message, items), closed=not (continue_final and index == last))
    if generation_prompt and not continue_final:
        pieces.token(tokenizer.IM_START)
        pieces.text("assistant\n")
    return pieces.prompt()


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role")
    if not isinstance(role, str):
        raise invalid("messages", "Field required: role")
    return role


def _content(message: Mapping[str, Any], media: Iterator[Media]) -> list[str | Media]:
    content = message.get("content")
    pieces: list[str | Media] = []
    if isinstance(content, str):
        pieces.append(content)
    elif isinstance(content, list):
        pieces.extend(_part(part, media) for part in content)
    elif content is not None:
        raise invalid("messages", "Input should be a valid string or list: content")
    if message.get("tool_calls"):
        pieces.append(msgspec.json.encode(message["tool_calls"]).decode())
    return pieces


def _part(part: Any, media: Iterator[Media]) -> str | Media:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_PARTS:
        text = part.get("text", part.get(kind))
        if not isinstance(text, str):
            raise invalid("messages", "Input should be a valid string: text")
        return text
    if kind in _MEDIA_PARTS:
        return next(media)
    raise RequestError(f"Unknown part type: {kind}", param="messages")


class _Pieces:
    """A prompt in the making."""

    def __init__(self) -> None:
        self._pieces: list[Words] = []
        self._media: list[MediaItem] = []
        self._length = 0

    def text(self, text: str) -> None:
        self._add(tokenizer.encode(text))

    def token(self, token: int) -> None:
        self._add(np.array([token], dtype=np.uint64))

    def turn(self, role: str, content: Sequence[str | Media], closed: bool = True) -> None:
        self.token(tokenizer.IM_START)
        self.text(f"{role}\n")
        for piece in content:
            if isinstance(piece, str):
                self.text(piece)
            else:
                self._place(piece)
        if closed:
            self.token(tokenizer.IM_END)
            self.text("\n")

    def prompt(self) -> Prompt:
        return Prompt(np.concatenate(self._pieces), tuple(self._media))

    def _place(self, media: Media) -> None:
        self.token(tokenizer.VISION_START)
        self._media.append(
            MediaItem(
                media.identifier, media.modality, self._length, media.tokens, media.metadata, media.content_digest
            )
        )
        self._add(np.full(media.tokens, tokenizer.PAD[media.modality], dtype=np.uint64))
        self.token(tokenizer.VISION_END)

    def _add(self, piece: Words) -> None:
        self._pieces.append(piece)
        self._length += len(piece)
