"""Anthropic's messages and their events, as vLLM 0.32 writes them: nulls are left out, and no `[DONE]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pymotor.engines.sim.prompts import Generation
from pymotor.engines.sim.requests import Output
from pymotor.engines.sim.writers import Choice

_encode = msgspec.json.Encoder().encode
_UNREADABLE = "2 validation errors for ChatCompletionStreamResponse"
"""What vLLM says in mid-stream whatever the cause: the layer above chat cannot read chat's error event."""


def error_body(kind: str, message: str) -> bytes:
    """An error object. `kind` is vLLM's name of it, not Anthropic's."""
    return _encode({"type": "error", "error": {"type": kind, "message": message}})


def _event(name: str, **body: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encode({"type": name, **body}) + b"\n\n"


class MessagesWriter:
    """Writes one answer. `details`: whether usage tells cached tokens apart."""

    def __init__(self, generation: Generation, identifier: str, model: str, details: bool) -> None:
        self.generation = generation
        self._identifier = identifier
        self._model = model
        self._details = details
        self._block_open = False

    def greeting(self) -> list[bytes]:
        """Nothing."""
        return []

    def opening(self) -> list[bytes]:
        """The message without its content."""
        message: dict[str, Any] = {
            "id": self._identifier,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._prompt_tokens, "output_tokens": 0},
        }
        return [_event("message_start", message=message)]

    def delta(self, _choice: Choice, text: str, _output: Output) -> list[bytes]:
        """A piece of text, and before the first one the start of its block."""
        events = []
        if text and not self._block_open:
            self._block_open = True
            events.append(_event("content_block_start", content_block={"type": "text", "text": ""}, index=0))
        if text:
            events.append(_event("content_block_delta", delta={"type": "text_delta", "text": text}, index=0))
        return events

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        """The end of the block, the reason to stop, and the end."""
        reason, sequence = _stop_reason(choices[0])
        return [
            *([_event("content_block_stop", index=0)] if self._block_open else ()),
            _event(
                "message_delta",
                delta={"stop_reason": reason, "stop_sequence": sequence},
                usage=self._usage(choices[0]),
            ),
            _event("message_stop"),
        ]

    def failure(self, _message: str) -> list[bytes]:
        """An error event, the last one; what happened does not get as far as the client."""
        return [_event("error", error={"type": "internal_error", "message": _UNREADABLE})]

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that is not streamed; empty text is a block too."""
        choice = choices[0]
        reason, sequence = _stop_reason(choice)
        body = {
            "id": self._identifier,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": choice.text}],
            "model": self._model,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self._usage(choice),
            "kv_transfer_params": choice.kv_transfer_params,
            "ec_transfer_params": choice.ec_transfer_params,
        }
        return _encode({name: value for name, value in body.items() if value is not None})

    @property
    def _prompt_tokens(self) -> int:
        return len(self.generation.prompts[0].tokens)

    def _usage(self, choice: Choice) -> dict[str, int]:
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": len(choice.tokens)}
        if self._details and choice.cached_tokens is not None:
            usage["input_tokens"] -= choice.cached_tokens
            usage["cache_read_input_tokens"] = choice.cached_tokens
        return usage


def _stop_reason(choice: Choice) -> tuple[str | None, str | None]:
    """Why an answer ended, and the stop string that ended it.

    Any text as `stop_reason` passes for a stop string, vllm-ascend's `recomputed` too.
    """
    if choice.finish_reason == "length":
        return "max_tokens", None
    if choice.finish_reason != "stop":
        return None, None
    if isinstance(choice.stop_reason, str):
        return "stop_sequence", choice.stop_reason
    return "end_turn", None
