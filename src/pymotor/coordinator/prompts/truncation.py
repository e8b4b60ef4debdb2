"""What is left of a prompt that the client has cut: vLLM keeps the last `truncate_prompt_tokens` of its tokens."""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import Fields
from pymotor.coordinator.prompts.prompt import Prompt
from pymotor.coordinator.prompts.text_tokens import TOKEN_BYTES

WHOLE = 0
UNKNOWN = -1

_count_decoder = msgspec.json.Decoder(int | None)
_side_decoder = msgspec.json.Decoder(str | None)


def kept_tokens(fields: Fields) -> int:
    """How many of the prompt's last tokens an engine keeps, `WHOLE` or `UNKNOWN`: as many as the model has room for,
    which only the engine knows, or something else that is not known here."""
    raw = fields.get("truncate_prompt_tokens")
    if raw is None:
        return WHOLE
    side = fields.get("truncation_side")
    try:
        kept = _count_decoder.decode(raw)
        if kept is None:
            return WHOLE
        if side is not None and _side_decoder.decode(side) not in (None, "left"):
            return UNKNOWN
    except UNREADABLE:
        return UNKNOWN
    return kept if kept > 0 else UNKNOWN


def truncated(prompt: Prompt, kept: int, *, plain: bool) -> Prompt | None:
    """What an engine makes of it; None where only the engine knows. `kept` as of `kept_tokens`. `plain`: the tokenizer
    puts no special tokens around it, which would stay where they are."""
    if kept == WHOLE:
        return prompt
    if kept == UNKNOWN or prompt.places:
        return None
    if prompt.length <= kept:
        return prompt
    return Prompt(memoryview(prompt.tokens)[-kept * TOKEN_BYTES :]) if plain else None
