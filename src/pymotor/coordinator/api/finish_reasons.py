"""Why the choices of a whole answer ended."""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    stop_reason: str | None = None


_decoder = msgspec.json.Decoder(_Answer)


def finish_reasons(body: bytes) -> tuple[str, ...]:
    """One for each choice of OpenAI's, or Anthropic's stop reason; empty where the answer has neither."""
    try:
        answer = _decoder.decode(body)
    except UNREADABLE:
        return ()
    if answer.stop_reason is not None:
        return (answer.stop_reason,)
    return tuple(choice.finish_reason for choice in answer.choices if choice.finish_reason is not None)
