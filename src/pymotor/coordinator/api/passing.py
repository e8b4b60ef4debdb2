"""Paths that one endpoint answers without stages: embeddings, scores, tokens.

Of their bodies only what decides the way and what clients may not send is looked at.
"""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, invalid
from pymotor.coordinator.api.media import BARRED_PART_KEYS, MediaItem, barred, media_kind
from pymotor.coordinator.api.media_meaning import Part
from pymotor.coordinator.api.prompt_length import text_tokens
from pymotor.coordinator.api.request_view import RequestView, read_fields
from pymotor.coordinator.api.surface import Surface

_WITH_PARTS = ("messages", "input", "query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2")
"""Fields in which engines look for `{"content": [parts]}`, alone or in a list."""

_lists = msgspec.json.Decoder(list[msgspec.Raw])
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_parts = msgspec.json.Decoder(list[Part | str])
_BRACE, _BRACKET = b"{["


def read_passing(surface: Surface, body: bytes, trusted: bool) -> RequestView:
    """Read a body that goes to one endpoint as it is. Raises `ApiError` (400)."""
    view = read_fields(surface, body, trusted)
    view.answer_tokens = 0
    for name in _WITH_PARTS:
        if name in view.fields:
            try:
                _read(view, view.fields[name], trusted)
            except UNREADABLE as error:
                raise invalid(f"{name} has contents that are no content parts: {error}", name) from error
    media_bytes = sum([item.size for item in view.media])
    texts = [raw for name, raw in view.fields.items() if name != "model"]
    view.prompt_tokens = text_tokens(texts, media_bytes) + sum([item.tokens for item in view.media])
    return view


def _read(view: RequestView, raw: msgspec.Raw, trusted: bool) -> None:
    first = memoryview(raw)[0]
    if first == _BRACE:
        _read_object(view, 0, raw, trusted)
    elif first == _BRACKET and b"{" in bytes(raw):
        for index, item in enumerate(_lists.decode(raw)):
            if memoryview(item)[0] == _BRACE:
                _read_object(view, index, item, trusted)


def _read_object(view: RequestView, index: int, raw: msgspec.Raw, trusted: bool) -> None:
    content = _objects.decode(raw).get("content")
    if content is None or memoryview(content)[0] != _BRACKET:
        return
    for position, part in enumerate(_parts.decode(content)):
        if isinstance(part, str):
            continue
        if not trusted and not BARRED_PART_KEYS.isdisjoint(part):
            raise barred(next(name for name in part if name in BARRED_PART_KEYS))
        kind = media_kind(part, trusted)
        if kind is not None:
            view.media.append(MediaItem(index, position, kind, part))


PASSING = tuple(
    Surface(path, read_passing, staged=False)
    for path in (
        "/v1/embeddings",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/score",
        "/v1/score",
        "/pooling",
        "/classify",
        "/tokenize",
        "/detokenize",
    )
)
