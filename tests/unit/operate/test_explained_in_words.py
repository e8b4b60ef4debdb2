"""What `pymotor explain` prints of an explanation."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from pymotor.coordinator.affinity.explanation import EndpointFigures, Explanation, LegFigures
from pymotor.operate.explain_command import lines_of


def explanation(found: str = "answered", load: float = 0.0, **changes: Any) -> dict[str, Any]:
    """As a Coordinator tells it."""
    endpoint = EndpointFigures(endpoint="union-0/0", chosen=True, load=load, score=load)
    leg = LegFigures(role="union", by="affinity", highest_load=load, endpoints=[endpoint])
    told = {"request_id": "", "placed_at": None, "prompt_tokens": 306, "note": ""} | changes
    made = Explanation(found=found, mode="unified", legs=[leg], **told)
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return decoded


@pytest.mark.parametrize(
    ("figure", "printed"),
    [
        (24_000_000.0, "24000000"),
        (24_000_000.1, "24000000.1"),
        (1_048_576.0, "1048576"),
        (123_456.7, "123456.7"),
        (99_999.9, "99999.9"),
        (417.5, "417.5"),
        (416.6666666666667, "416.667"),
        (0.0, "0"),
        (0.00001, "0.00001"),
    ],
)
def test_figures_are_plain(figure: float, printed: str) -> None:
    lines = lines_of(explanation(load=figure))
    assert f"union, by affinity, no load above {printed}" in lines
    assert lines[-1].split() == ["*", "union-0/0", printed, printed]


def test_a_request_is_called_and_its_age_told() -> None:
    named = explanation(request_id="its-name", placed_at=time.time() - 7500.5)
    assert lines_of(named)[0].startswith("request its-name, 2 h 5 min ago: 306 prompt tokens; ")
    nameless = explanation(placed_at=time.time() + 3600)
    assert lines_of(nameless)[0].startswith("0 s ago: 306 prompt tokens; "), "the Coordinator's clock is ahead"
    assert lines_of(explanation())[0].startswith("306 prompt tokens; ")


@pytest.mark.parametrize(
    ("found", "about", "why"),
    [
        ("text", True, "the prompt's tokens, or a KV Conductor, are lacking"),
        ("closed", True, "could not be asked"),
        ("unfollowed", True, "follows no engine that could compute the prompt"),
        ("late", False, "kv_affinity_patience"),
        ("lost", False, "broke off"),
    ],
)
def test_why_texts_are_compared(found: str, about: bool, why: str) -> None:
    headline, told, *_ = lines_of(explanation(found))
    assert headline == f"{'about ' if about else ''}306 prompt tokens; matches: {found}, unified"
    assert why in told
    assert told.endswith("beginnings of texts are compared")


@pytest.mark.parametrize("found", ["answered", "session", "prefix", "load", "several", "no_session"])
def test_elsewhere_no_texts_are_compared(found: str) -> None:
    lines = lines_of(explanation(found))
    assert lines[0].startswith("306 ")
    assert lines[1] == ""
