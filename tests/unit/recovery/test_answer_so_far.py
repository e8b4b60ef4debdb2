"""Token ids cut out of events by a search for bytes: as if the events had been read and written as JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar

TRICKY = ',"token_ids":[7]', '"', "\\", "]}", "\n\n", 'token_ids":[', '","reasoning":"', "é世", "[DONE]", '"recomputed"'
texts = st.one_of(st.text(max_size=8), st.sampled_from(TRICKY), st.just(""))
ids = st.one_of(st.none(), st.lists(st.integers(0, 200000), max_size=4))
separators = st.sampled_from([(",", ":"), (", ", ": ")])
line_ends = st.sampled_from(["\n\n", "\r\n\r\n"])


@st.composite
def events(draw: st.DrawFn, chat: bool, line_end: str) -> tuple[dict[str, Any], str]:
    """One event of an answer that is one text, and how it stood on the wire."""
    text, token_ids, prompt = draw(texts), draw(ids), draw(ids)
    finish = draw(st.sampled_from([None, None, None, "stop", "length"]))
    choice: dict[str, Any] = {"index": 0}
    choice |= {"delta": {"content": text}} if chat else {"text": text}
    choice |= {"logprobs": None, "finish_reason": finish}
    if draw(st.booleans()):
        choice["stop_reason"] = draw(st.sampled_from([None, 5]))
    if not chat:
        choice["prompt_token_ids"] = prompt
    choice["token_ids"] = token_ids
    body: dict[str, Any] = {"id": "x", "object": "chunk", "created": 5, "model": "m", "choices": [choice]}
    if chat and draw(st.booleans()):
        body["prompt_token_ids"] = prompt
    if draw(st.booleans()):
        choices = body.pop("choices")
        body = {**body, "usage": draw(st.sampled_from([None, {"completion_tokens": 3}])), "choices": choices}
    if draw(st.integers(0, 5)) == 0:
        body["choices"] = []
    wire = json.dumps(body, separators=draw(separators), ensure_ascii=draw(st.booleans()))
    return body, f"data: {wire}{line_end}"


def nulled(body: dict[str, Any]) -> dict[str, Any]:
    """What the client would have got if nobody had asked for token ids."""
    found: dict[str, Any] = json.loads(json.dumps(body))
    for holder in (found, *found["choices"]):
        for name in ("token_ids", "prompt_token_ids"):
            if name in holder:
                holder[name] = None
    return found


def read(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream."""
    return [
        json.loads(event.removeprefix("data:"))
        for event in stream.decode().replace("\r\n", "\n").split("\n\n")
        if event
    ]


def tokens_of(bodies: list[dict[str, Any]], *, sure: bool) -> list[int]:
    """The tokens in events; `sure`: up to the last with text."""
    found: list[int] = []
    end = 0
    for body in bodies:
        for choice in body["choices"]:
            found += choice["token_ids"] or []
            if choice.get("text") or choice.get("delta", {}).get("content"):
                end = len(found)
    return found[:end] if sure else found


@given(data=st.data(), chat=st.booleans(), line_end=line_ends)
def test_cut_out_as_the_json_way(data: st.DataObject, chat: bool, line_end: str) -> None:
    given_events = data.draw(st.lists(events(chat, line_end), min_size=1, max_size=5))
    for one_by_one in (False, True):
        answer = AnswerSoFar(chat=chat, shows_ids=False)
        seen = b""
        pieces = [wire for _, wire in given_events] if one_by_one else ["".join(wire for _, wire in given_events)]
        for piece in pieces:
            wire = b"%x\r\n%b\r\n" % (len(piece.encode()), piece.encode())
            start = wire.index(b"\n") + 1
            shown = answer.take_single(wire, start, len(wire) - 2) if piece.endswith("}\n\n") else None
            seen += answer.take(piece.encode()) if shown is None else shown
        bodies = [body for body, _ in given_events]
        assert read(seen) == [nulled(body) for body in bodies]
        assert answer.verdict is None
        assert answer.tokens() == tokens_of(bodies, sure=True)
        assert answer.tokens(all_of_them=True) == tokens_of(bodies, sure=False)
        assert answer.finished == any(c["finish_reason"] for body in bodies for c in body["choices"])


def event(**choice: object) -> bytes:
    """One event with one choice, as vLLM writes it."""
    whole = {"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None, "token_ids": [1], **choice}
    body = {"id": "i", "object": "o", "created": 1, "model": "m", "choices": [whole]}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def test_the_ordinary_event_is_not_read() -> None:
    answer = AnswerSoFar(chat=True, shows_ids=False)
    one = event(token_ids=[2, 3], delta={"content": 'say "]}" \\'})
    assert answer.take_single(one, 0, len(one)) is None, "how such an event looks is not known yet"
    assert answer.take(event()) == event(token_ids=None)
    assert answer.take_single(one, 0, len(one)) == event(token_ids=None, delta={"content": 'say "]}" \\'})
    assert answer.tokens() == [1, 2, 3]


def test_what_is_not_ordinary_is_left_to_be_read() -> None:
    answer = AnswerSoFar(chat=True, shows_ids=False)
    answer.take(event())
    for one in (
        event(finish_reason="stop"),
        event(delta={"content": ""}),
        event(delta={"reasoning": "hm"}),
        event(token_ids=None),
        event() + event(),
        b"data: [DONE]\n\n",
    ):
        assert answer.take_single(one, 0, len(one)) is None
    assert answer.tokens() == [1]


def test_tokens_without_text_are_generated_again_and_not_shown() -> None:
    answer = AnswerSoFar(chat=True, shows_ids=True)
    assert answer.take(event(token_ids=[1])) == event(token_ids=[1])
    assert answer.take(event(token_ids=[2], delta={"content": ""})) == b""
    assert answer.tokens() == [1]
    assert answer.take(event(token_ids=[3])) == event(token_ids=[2], delta={"content": ""}) + event(token_ids=[3])
    assert answer.take(event(token_ids=[4], delta={"content": ""})) == b""
    answer.rewind()
    assert answer.tokens(all_of_them=True) == [1, 2, 3]


def test_what_an_engine_says_of_its_end() -> None:
    given_up = event(delta={"content": ""}, finish_reason="stop", stop_reason="recomputed", token_ids=[])
    answer = AnswerSoFar(chat=True, shows_ids=False)
    assert answer.take(event() + given_up + b"data: [DONE]\n\n") == event(token_ids=None)
    assert answer.verdict is not None
    assert answer.verdict.reason == "recomputed"
    assert not answer.finished
    answer.rewind()
    assert answer.take(event() + b'data: {"error":{"message":"m","code":500}}\n\ndata: [DONE]\n\n')
    assert answer.verdict is not None
    assert answer.verdict.reason == "stream_error"
    assert not answer.done


def test_what_cannot_be_exact() -> None:
    for one in (
        event(delta={"reasoning": "hm"}, token_ids=[1]),
        event(delta={"tool_calls": [{}]}, token_ids=[1]),
        event(token_ids=None),
        b"data: {}{}\n\n",
    ):
        answer = AnswerSoFar(chat=True, shows_ids=False)
        answer.take(one)
        assert answer.impossible
