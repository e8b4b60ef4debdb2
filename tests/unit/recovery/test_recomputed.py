"""Which answers an engine has given up."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pymotor.coordinator.recovery.recomputed import MARK, events_give_up, gives_up

WORD = "recomputed"


def raw(**fields: object) -> dict[str, msgspec.Raw]:
    """Fields of a request."""
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}


@pytest.mark.parametrize(
    ("answer", "fields", "given_up"),
    [
        ({"choices": [{"finish_reason": "stop", "stop_reason": WORD}]}, {}, True),
        ({"choices": [{"stop_reason": None}, {"stop_reason": WORD}]}, {}, True),
        ({"choices": [{"stop_reason": WORD}]}, {"stop": [WORD]}, False),
        ({"choices": [{"stop_reason": WORD}]}, {"stop": ["end"]}, True),
        ({"choices": [{"message": {"content": WORD}, "stop_reason": None}]}, {}, False),
        ({"choices": [{"delta": {"content": WORD}}]}, {}, False),
        ({"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": WORD}}, {}, True),
        ({"type": "message", "stop_sequence": WORD}, {"stop_sequences": [WORD]}, False),
        ({"choices": None, "x": WORD}, {}, False),
        ([WORD], {}, False),
    ],
)
def test_which_answers_are_given_up(answer: Any, fields: dict[str, object], given_up: bool) -> None:
    body = json.dumps(answer).encode()
    assert MARK in body
    assert gives_up(body, raw(**fields)) == given_up
    events = b'data: {"choices":[]}\n\nevent: x\ndata: ' + body + b"\n\ndata: [DONE]\n\n"
    assert events_give_up(events, raw(**fields)) == given_up


def test_what_is_no_json_is_not() -> None:
    assert not gives_up(b'{"choices": "recomputed"', {})
    assert not gives_up(b"[" * 100_000 + MARK, {})
