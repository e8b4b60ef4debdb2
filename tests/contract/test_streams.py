"""Streamed answers, event by event."""

from __future__ import annotations

import pytest

from engine_legs import COMPLETIONS, JSON, Stream, answer, chat, image, post, stream, text, token_ids
from engines_under_test import MODEL, EnginesUnderTest

QUESTION = text("What is in the picture?")
TOKENS = 9


def chat_events(streamed: Stream) -> list[JSON]:
    assert streamed.status == 200
    assert streamed.headers["content-type"].replace(" ", "") == "text/event-stream;charset=utf-8"
    assert streamed.events[-1] == "[DONE]"
    assert streamed.events.count("[DONE]") == 1
    objects = streamed.objects
    assert len({event["id"] for event in objects}) == 1
    assert len({event["created"] for event in objects}) == 1
    assert {event["model"] for event in objects} == {MODEL}
    return objects


def test_chat_begins_with_the_role_and_ends_with_the_reason(engines: EnginesUnderTest) -> None:
    body = chat(image(1), QUESTION, max_tokens=TOKENS, ignore_eos=True)
    streamed = stream(engines.union, body, request_id="abc")
    role, *deltas = chat_events(streamed)
    assert role["object"] == "chat.completion.chunk"
    assert role["id"] == "chatcmpl-abc"
    assert streamed.headers["x-request-id"] == "abc"
    assert role["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert [event["choices"][0]["finish_reason"] for event in deltas[:-1]] == [None] * (len(deltas) - 1)
    last = deltas[-1]["choices"][0]
    assert last["finish_reason"] == "length"
    assert last["stop_reason"] is None
    assert all("usage" not in event for event in [role, *deltas])
    content = "".join(event["choices"][0]["delta"]["content"] for event in deltas)
    assert content == answer(post(engines.union, body))["choices"][0]["message"]["content"]


def test_usage_comes_last_and_without_choices(engines: EnginesUnderTest) -> None:
    body = chat(QUESTION, max_tokens=TOKENS, ignore_eos=True, stream_options={"include_usage": True})
    *before, usage = chat_events(stream(engines.union, body))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == TOKENS
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + TOKENS
    assert all(event.get("usage") is None for event in before)


def test_continuous_usage_counts_up(engines: EnginesUnderTest) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = chat(QUESTION, max_tokens=TOKENS, ignore_eos=True, stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in chat_events(stream(engines.union, body))]
    assert counts[0] == 0
    assert counts[-1] == TOKENS
    assert counts == sorted(counts)


def test_token_ids_of_a_chat_stream(engines: EnginesUnderTest) -> None:
    body = chat(image(2), QUESTION, max_tokens=TOKENS, ignore_eos=True, return_token_ids=True)
    role, *deltas = chat_events(stream(engines.union, body))
    whole = answer(post(engines.union, body))
    assert role["prompt_token_ids"] == whole["prompt_token_ids"]
    assert [token for event in deltas for token in event["choices"][0]["token_ids"]] == token_ids(whole)


def test_token_ids_are_null_unless_asked_for(engines: EnginesUnderTest) -> None:
    role, *deltas = chat_events(stream(engines.union, chat(QUESTION, max_tokens=2, ignore_eos=True)))
    assert role["prompt_token_ids"] is None
    assert all(event["choices"][0]["token_ids"] is None for event in deltas)


def test_completions_have_no_role(engines: EnginesUnderTest) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    streamed = stream(engines.union, body, COMPLETIONS, request_id="abc")
    events = chat_events(streamed)
    assert {event["object"] for event in events} == {"text_completion"}
    assert {event["id"] for event in events} == {"cmpl-abc"}
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    said = "".join(event["choices"][0]["text"] for event in events)
    assert said == answer(post(engines.union, body, COMPLETIONS))["choices"][0]["text"]


def test_token_ids_of_a_completion_stream(engines: EnginesUnderTest) -> None:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
    events = chat_events(stream(engines.union, body, COMPLETIONS))
    (whole,) = answer(post(engines.union, body, COMPLETIONS))["choices"]
    assert events[0]["choices"][0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert [token for event in events for token in event["choices"][0]["token_ids"]] == whole["token_ids"]


def test_a_stop_string_ends_the_stream(engines: EnginesUnderTest) -> None:
    whole = answer(post(engines.union, chat(QUESTION, max_tokens=TOKENS, ignore_eos=True)))
    content = whole["choices"][0]["message"]["content"]
    stop = content[4:6]
    body = chat(QUESTION, max_tokens=TOKENS, ignore_eos=True, stop=[stop])
    events = chat_events(stream(engines.union, body))
    last = events[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
    said = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert said == content[: content.index(stop)]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_ends_by_itself_at_the_end_token(engines: EnginesUnderTest, streamed: bool) -> None:
    """Whatever token comes second: named as a stop token, it ends the answer and is not said."""
    first, second = token_ids(
        answer(post(engines.union, chat(QUESTION, max_tokens=2, ignore_eos=True, return_token_ids=True)))
    )
    body = chat(QUESTION, max_tokens=TOKENS, ignore_eos=True, stop_token_ids=[second], min_tokens=int(first == second))
    if streamed:
        last = chat_events(stream(engines.union, body))[-1]["choices"][0]
    else:
        last = answer(post(engines.union, body))["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", second)
