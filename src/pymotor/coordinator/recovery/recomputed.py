"""Answers that an engine gives up.

vllm-ascend's decode drops a request when it has no KV cache left for it and ends the answer with `finish_reason: stop`
and `stop_reason: recomputed`: whoever asked is to have it computed again. Passed on, it would be a truncated answer
that looks whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.events import data_of, events_of
from pymotor.coordinator.http.exchange import UpstreamError

RECOMPUTED = "recomputed"
_STOPS = ("stop", "stop_sequences")
MARK = b'"recomputed"'
"""Without these bytes no answer is given up. Inside of a JSON string they cannot stand: the quotes would be escaped;
a string that is nothing else, as a word generated, can be."""


class Recomputed(UpstreamError):
    """The engine gave the answer up and wants it computed again."""

    reason = RECOMPUTED

    def __init__(self) -> None:
        super().__init__("it had no room left for the answer and gave it up")


def gives_up(body: bytes, fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a whole reply that has `MARK` in it is an answer given up; `fields` are the request's, which may name
    the word as a place to stop at."""
    if any(name in fields and MARK in bytes(fields[name]) for name in _STOPS):
        return False
    try:
        return _given_up(msgspec.json.decode(body))
    except UNREADABLE:
        return False


def events_give_up(events: bytes, fields: Mapping[str, msgspec.Raw]) -> bool:
    """The same for whole events of a stream."""
    return any(MARK in event and gives_up(data_of(event), fields) for event in events_of(events))


def _given_up(answer: Any) -> bool:
    """OpenAI's `choices[].stop_reason`; `stop_sequence` in Anthropic's message or `delta`."""
    if not isinstance(answer, dict):
        return False
    if answer.get("stop_sequence") == RECOMPUTED or _given_up(answer.get("delta")):
        return True
    choices = answer.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("stop_reason") == RECOMPUTED for choice in choices
    )
