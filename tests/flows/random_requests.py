"""Requests as clients could send them, for hypothesis. Each has one right answer: greedy, or with a seed."""

from __future__ import annotations

from typing import Any

from answers import CHAT, COMPLETIONS, Asked
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from images import image_part

SHORT_TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
LONG_TEXTS = st.builds(
    lambda text, times: text * times, st.text("abcdefg \n", min_size=8, max_size=16), st.integers(8, 80)
)
TEXTS = st.one_of(SHORT_TEXTS, SHORT_TEXTS, LONG_TEXTS)
IMAGES = st.integers(0, 11).map(image_part)
"""So few that requests share some, and one request has some twice."""
TEXT_PARTS = TEXTS.map(lambda text: {"type": "text", "text": text})


@st.composite
def _sampling(draw: st.DrawFn) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": "tiny", "return_token_ids": True}
    if draw(st.booleans()):
        fields["temperature"] = 0
    else:
        fields["seed"] = draw(st.integers(0, 2**31))
        fields["temperature"] = draw(st.sampled_from((0.5, 1.0)))
        if draw(st.integers(0, 3)) == 0:
            fields["n"] = draw(st.integers(2, 3))
    fields["max_tokens"] = draw(st.integers(1, 12))
    if draw(st.integers(0, 4)) == 0:
        fields["ignore_eos"] = True
    if draw(st.booleans()):
        fields["stream"] = True
        if draw(st.booleans()):
            fields["stream_options"] = {"include_usage": True}
    return fields


@st.composite
def chats(draw: st.DrawFn) -> Asked:
    """Chat completions with one to three messages and none to four images."""
    fields = draw(_sampling())
    if draw(st.integers(0, 3)) == 0:
        fields["max_completion_tokens"] = fields.pop("max_tokens")
    messages: list[dict[str, Any]] = []
    images_left = draw(st.integers(0, 4))
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXTS)})
    for turn in range(draw(st.integers(1, 2))):
        if turn:
            messages.append({"role": "assistant", "content": draw(SHORT_TEXTS)})
        count = images_left if turn else draw(st.integers(0, images_left))
        images_left -= count
        if count or draw(st.booleans()):
            parts = [draw(IMAGES) for _ in range(count)]
            parts.insert(draw(st.integers(0, count)), draw(TEXT_PARTS))
            messages.append({"role": "user", "content": parts})
        else:
            messages.append({"role": "user", "content": draw(TEXTS)})
    return Asked(CHAT, {**fields, "messages": messages})


@st.composite
def completions(draw: st.DrawFn) -> Asked:
    """Completions of a text, of token ids, or of several of them."""
    fields = draw(_sampling())
    tokens = st.lists(st.integers(1, 255), min_size=1, max_size=120)
    prompt = draw(
        st.one_of(
            TEXTS, tokens, st.lists(SHORT_TEXTS, min_size=1, max_size=3), st.lists(tokens, min_size=2, max_size=3)
        )
    )
    return Asked(COMPLETIONS, {**fields, "prompt": prompt})


def requests() -> st.SearchStrategy[Asked]:
    """Three chats to one completion."""
    return st.one_of(chats(), chats(), chats(), completions())


def some(count: int) -> list[Asked]:
    """`count` of them, all different."""
    drawn: list[Asked] = []

    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def draw(asked: Asked) -> None:
        drawn.append(asked)

    draw()
    return drawn
