"""One request that is several: how it is taken apart, and one response put together."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.surface import COMPLETIONS
from pymotor.coordinator.flows.several import merge, parts_of


def sent(view: object) -> dict[str, object]:
    """What a part's body says."""
    found: dict[str, object] = json.loads(b"".join(view.body))  # type: ignore[attr-defined]
    return found


@given(st.integers(1, 4), st.integers(1, 4), st.none() | st.integers(0, 2**31))
def test_choices_are_prompt_times_n_plus_k(prompts: int, n: int, seed: int | None) -> None:
    body: dict[str, object] = {
        "model": "m",
        "prompt": [f"p{number}" for number in range(prompts)],
        "n": n,
    }
    if seed is not None:
        body["seed"] = seed
    view = COMPLETIONS.read(COMPLETIONS, json.dumps(body).encode(), False)
    parts = [sent(part) for part in parts_of(view)]
    assert not any("n" in part for part in parts)
    if prompts > 1:
        assert [part["prompt"] for part in parts] == [f"p{number}" for number in range(prompts) for _ in range(n)]
    if seed is not None:
        assert [part["seed"] for part in parts] == [seed + k for _ in range(prompts) for k in range(n)]
    replies = [
        json.dumps(
            {
                "id": f"cmpl-{number}",
                "choices": [{"index": 0, "text": str(number)}],
                "usage": {"prompt_tokens": 10 + number // n, "completion_tokens": 1, "total_tokens": 0},
            }
        ).encode()
        for number in range(prompts * n)
    ]
    merged = {name: json.loads(bytes(raw)) for name, raw in merge(view, replies).items()}
    assert [(choice["index"], choice["text"]) for choice in merged["choices"]] == [
        (number, str(number)) for number in range(prompts * n)
    ]
    prompt_tokens = sum(10 + number for number in range(prompts))
    assert merged["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": prompts * n,
        "total_tokens": prompt_tokens + prompts * n,
    }
    assert merged["id"] == "cmpl-0"


def test_too_many_answers_are_refused() -> None:
    body = {"model": "m", "prompt": ["x"] * 100, "n": 100}
    with pytest.raises(ApiError) as caught:
        parts_of(COMPLETIONS.read(COMPLETIONS, json.dumps(body).encode(), False))
    assert caught.value.status == 400
