"""What an engine's reply says it had of the prompt: `usage.prompt_tokens_details.cached_tokens`.

vLLM says so with `--enable-prompt-tokens-details`, SGLang with `--enable-cache-report`; Anthropic's form has
`cache_read_input_tokens`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.events import data_of, events_of

_OPENAI_MARK, _ANTHROPIC_MARK = b"cached_tokens", b"cache_read_input_tokens"
_IN_STREAMS = b'"cached_tokens":'


class PromptUsage(NamedTuple):
    """Tokens of a prompt, as its engine says."""

    cached: int
    """That it did not compute anew."""
    length: int | None
    """All of them, where it says so."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None


class _Reply(msgspec.Struct):
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Reply)


def prompt_usage(body: bytes) -> PromptUsage | None:
    """What the reply says; None where it does not say what was cached."""
    if body.find(_OPENAI_MARK) < 0 and body.find(_ANTHROPIC_MARK) < 0:
        # Not `in`, which raises and drops an error before it looks for bytes.
        return None
    try:
        usage = _decoder.decode(body).usage
    except UNREADABLE:
        return None
    if usage is None:
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = details.cached_tokens if details is not None else usage.cache_read_input_tokens
    return None if cached is None else PromptUsage(cached, usage.prompt_tokens)


def says_cached_tokens(wire: bytes) -> bool:
    """Whether these bytes of a stream of OpenAI's name the cached tokens; no text that is told can look so, since its
    quotes are escaped."""
    # Not `in`, which raises and drops an error before it looks for bytes.
    return bool(wire.partition(_IN_STREAMS)[1])


def prompt_usage_in_events(events: bytes) -> PromptUsage | None:
    """Likewise, by the first of whole events that says so."""
    found = (prompt_usage(data_of(event)) for event in events_of(events) if _IN_STREAMS in event)
    return next((usage for usage in found if usage is not None), None)
