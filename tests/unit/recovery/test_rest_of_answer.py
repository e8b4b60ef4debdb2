"""An answer that breaks anywhere, any number of times, and is carried on by engines whose tokens are single bytes.

A character of several bytes is several tokens, of which all but the last have no text. An engine that is asked to go
on in the midst of a character cannot say it; so the text comes out right only if nobody is.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.api.surface import CHAT, COMPLETIONS
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.recovery.carrying_on import keep_answer, request_for_the_rest
from pymotor.coordinator.recovery.rest_of_answer import RestOfAnswer, usage_event

PROMPT = [1, 2, 3]
TEXTS = st.text(st.sampled_from('ab é世🙂"\\'), min_size=1, max_size=20)


def view_of(chat: bool, shows_ids: bool, limit: int) -> RequestView:
    """A greedy streamed request."""
    surface = CHAT if chat else COMPLETIONS
    body: dict[str, Any] = {"model": "m", "stream": True, "max_tokens": limit, "temperature": 0}
    body |= {"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}
    body["stream_options"] = {"include_usage": True}
    if shows_ids:
        body["return_token_ids"] = True
    return surface.read(surface, json.dumps(body).encode(), False)


def engine(answer: bytes, done: int, *, chat: bool, name: str) -> list[bytes]:
    """The events of an engine whose prompt holds the first `done` tokens of `answer`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    base: dict[str, Any] = {"id": name, "object": "o", "created": len(name), "model": "m"}
    events: list[dict[str, Any]] = []
    if chat:
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        events.append({**base, "choices": [role], "prompt_token_ids": PROMPT})
    for position in range(done, len(answer)):
        last = position == len(answer) - 1
        text = decoder.decode(answer[position : position + 1], last)
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": text}} if chat else {"text": text}
        choice |= {"logprobs": None, "finish_reason": "length" if last else None}
        if last or not chat:
            choice["stop_reason"] = None
        if not chat:
            choice["prompt_token_ids"] = PROMPT + list(answer[:done]) if position == done else None
        events.append({**base, "choices": [{**choice, "token_ids": [answer[position]]}]})
    new = len(answer) - done
    usage = {"prompt_tokens": 3 + done, "total_tokens": 3 + done + new, "completion_tokens": new}
    events.append({**base, "choices": [], "usage": usage})
    wire = [b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in events]
    return [*wire, b"data: [DONE]\n\n"]


def read(stream: bytes) -> tuple[str, list[int], list[str], Any, set[str]]:
    """Text, token ids, finish reasons, usage, and the ids of the events of a stream."""
    text, usage = "", None
    ids: list[int] = []
    finishes: list[str] = []
    names: set[str] = set()
    for event in stream.decode().split("\n\n"):
        if not event or event == "data: [DONE]":
            continue
        fields = json.loads(event.removeprefix("data: "))
        names.add(fields["id"])
        usage = fields.get("usage") or usage
        for choice in fields["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            ids += choice.get("token_ids") or []
            if choice["finish_reason"]:
                finishes.append(choice["finish_reason"])
    return text, ids, finishes, usage, names


@given(text=TEXTS, chat=st.booleans(), shows_ids=st.booleans(), merged=st.booleans(), data=st.data())
def test_no_token_is_lost_or_doubled(text: str, chat: bool, shows_ids: bool, merged: bool, data: st.DataObject) -> None:
    answer = text.encode()
    view = view_of(chat, shows_ids, len(answer))
    so_far = keep_answer(view)
    assert isinstance(so_far, AnswerSoFar)
    assert so_far.shows_ids == shows_ids
    seen, source, events = b"", so_far, engine(answer, 0, chat=chat, name="first")
    taker: AnswerSoFar | RestOfAnswer = source
    while True:
        cut = data.draw(st.integers(1, len(events)))
        for piece in [b"".join(events[:cut])] if merged else events[:cut]:
            seen += taker.take(piece)
        if so_far.done:
            break
        if so_far.finished:
            if not so_far.usage_sent:
                seen += usage_event(so_far, len(so_far.tokens(all_of_them=True)))
            break
        so_far.rewind()
        if so_far.prompt is None or not so_far.identity:
            return  # nothing had come that a client is sent: the request is tried again, not carried on
        rest = request_for_the_rest(view, so_far, None)
        assert rest is not None
        assert not so_far.impossible
        asked = json.loads(b"".join(rest.body))
        done = len(asked["prompt"]) - len(PROMPT)
        assert asked["prompt"] == PROMPT + list(answer[:done])
        assert asked["max_tokens"] == len(answer) - done
        assert "messages" not in asked
        taker = RestOfAnswer(so_far, chat=chat)
        events = engine(answer, done, chat=False, name="another")
    found, ids, finishes, usage, names = read(seen)
    assert found == text
    assert ids == (list(answer) if shows_ids else [])
    assert finishes == ["length"]
    assert usage == {"prompt_tokens": 3, "completion_tokens": len(answer), "total_tokens": 3 + len(answer)}
    assert names == {"first"}


@pytest.mark.parametrize(
    ("fields", "possible"),
    [
        ({}, True),
        ({"temperature": 0.7, "top_p": 0.9}, True),
        ({"seed": 3}, True),
        ({"seed": 3, "temperature": 1}, False),
        ({"n": 1, "stop": None, "logprobs": False, "tools": [], "frequency_penalty": 0}, True),
        ({"n": 2}, False),
        ({"stop": "x"}, False),
        ({"stop": ["x"]}, False),
        ({"logprobs": True}, False),
        ({"tools": [{"type": "function"}]}, False),
        ({"response_format": {"type": "text"}}, True),
        ({"response_format": {"type": "json_object"}}, False),
        ({"guided_json": {}}, False),
        ({"structured_outputs": {"regex": "a"}}, False),
        ({"presence_penalty": 1}, False),
        ({"min_tokens": 2}, False),
        ({"reasoning_effort": "low"}, False),
        ({"truncate_prompt_tokens": 3}, False),
        ({"stream_options": {"continuous_usage_stats": True}}, False),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": None}, True),
        ({"stream_options": 5}, False),
        ({"stream": False}, False),
        ({"what_nobody_knows": 1}, False),
        ({"what_nobody_knows": None}, True),
    ],
)
def test_which_requests_can_be_carried_on(fields: dict[str, Any], possible: bool) -> None:
    body = {"model": "m", "stream": True, "temperature": 0, "messages": [{"role": "user", "content": "x"}], **fields}
    view = CHAT.read(CHAT, json.dumps(body).encode(), False)
    assert isinstance(keep_answer(view), AnswerSoFar) == possible
    sent = json.loads(b"".join(view.body))
    assert sent == ({**body, "return_token_ids": True} if possible else body)


@pytest.mark.parametrize(("stated", "sent"), [(True, True), (False, True), (None, True)])
def test_the_engine_is_asked_once(stated: bool | None, sent: bool) -> None:
    body = {"model": "m", "stream": True, "return_token_ids": stated, "prompt": "x"}
    view = COMPLETIONS.read(COMPLETIONS, json.dumps(body).encode(), False)
    so_far = keep_answer(view)
    assert isinstance(so_far, AnswerSoFar)
    assert so_far.shows_ids == (stated is True)
    assert json.loads(b"".join(view.body))["return_token_ids"] is sent
    assert b"".join(view.body).count(b"return_token_ids") == 1


def test_how_long_the_rest_may_be() -> None:
    view = view_of(True, False, 5)
    so_far = AnswerSoFar(chat=True, shows_ids=False)
    assert request_for_the_rest(view, so_far, 100) is None, "the prompt is not known"
    so_far.prompt = b"[1,2,3]"
    so_far.take(engine(b"abcdef", 0, chat=True, name="x")[1])
    assert _asked(view, so_far, 100) == 4
    del view.fields["max_tokens"]
    assert request_for_the_rest(view, so_far, None) is None, "nobody knows how long a chat's answer may get"
    assert _asked(view, so_far, 100) == 96
    completion = view_of(False, False, 5)
    del completion.fields["max_tokens"]
    assert _asked(completion, so_far, 100) == 15, "OpenAI's 16 tokens, one of which is there"


def _asked(view: RequestView, so_far: AnswerSoFar, longest: int | None) -> int:
    rest = request_for_the_rest(view, so_far, longest)
    assert rest is not None
    found: int = json.loads(b"".join(rest.body))["max_tokens"]
    return found
