"""`/v1/messages`: the answer of chat in Anthropic's words, handed over between engines like any other."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from engine_legs import JSON, PREFILL_FOR_SOMEBODY, TIMEOUT, answer, chat, encode, image, png, post, prefill, text
from engines_under_test import MAX_MODEL_LEN, MODEL, EnginesUnderTest
from typed_events import typed_events

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
QUESTION = text("What is in the picture?")
SYSTEM = "You are a helpful assistant."


def picture(seed: int) -> JSON:
    """The block that says what `image` says."""
    data = base64.b64encode(png(seed)).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def messages(*blocks: JSON, **fields: Any) -> JSON:
    """The request that says what `chat` says."""
    base = {"model": MODEL, "max_tokens": 8, "temperature": 0, "system": SYSTEM}
    return {**base, "messages": [{"role": "user", "content": list(blocks)}], **fields}


def stream(base: str, body: JSON) -> list[JSON]:
    """The events of a stream."""
    return typed_events(httpx.post(base + PATH, json={**body, "stream": True}, timeout=TIMEOUT))


def said(reply: JSON) -> str:
    """The text of an answer; one block even when it is empty."""
    (block,) = reply["content"]
    assert list(block) == ["type", "text"]
    assert block["type"] == "text"
    words: str = block["text"]
    return words


def by_chat(engines: EnginesUnderTest, *parts: JSON) -> JSON:
    """What chat says to the same, whole."""
    return answer(post(engines.union, chat(*parts, max_tokens=8)))


def test_a_message_is_the_answer_of_chat(engines: EnginesUnderTest) -> None:
    expected = by_chat(engines, image(1), QUESTION)
    response = post(engines.union, messages(picture(1), QUESTION), PATH, request_id="abc-123")
    reply = answer(response)
    assert list(reply)[:6] == ["id", "type", "role", "content", "model", "stop_reason"]
    assert set(reply) <= {"id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "usage"}
    assert (reply["id"], reply["type"], reply["role"], reply["model"]) == (
        *("chatcmpl-abc-123", "message", "assistant"),
        MODEL,
    )
    assert said(reply) == expected["choices"][0]["message"]["content"]
    assert reply["usage"] == {
        "input_tokens": expected["usage"]["prompt_tokens"],
        "output_tokens": expected["usage"]["completion_tokens"],
    }
    assert response.headers["x-request-id"] == "abc-123"


def test_the_events_of_a_message(engines: EnginesUnderTest) -> None:
    whole = answer(post(engines.union, messages(QUESTION), PATH))
    first, start, *deltas, stop, last, end = stream(engines.union, messages(QUESTION))
    assert list(first) == ["type", "message"]
    assert first["message"] == {
        "id": first["message"]["id"],
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": MODEL,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": whole["usage"]["input_tokens"], "output_tokens": 0},
    }
    assert start == {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
    for delta in deltas:
        assert (delta["type"], delta["index"], delta["delta"]["type"]) == ("content_block_delta", 0, "text_delta")
    assert "".join(delta["delta"]["text"] for delta in deltas) == said(whole)
    assert stop == {"type": "content_block_stop", "index": 0}
    assert last == {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": whole["usage"],
    }
    assert end == {"type": "message_stop"}


def test_a_stop_sequence_is_named(engines: EnginesUnderTest) -> None:
    whole = said(answer(post(engines.union, messages(QUESTION), PATH)))
    stop = whole[2:4]
    body = messages(QUESTION, stop_sequences=[stop])
    reply = answer(post(engines.union, body, PATH))
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", stop)
    assert said(reply) == whole[: whole.index(stop)]
    assert stream(engines.union, body)[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_tokens_are_counted_as_they_are_used(engines: EnginesUnderTest) -> None:
    body = messages(picture(2), QUESTION)
    used = answer(post(engines.union, body, PATH))["usage"]["input_tokens"]
    counted = answer(post(engines.union, {name: body[name] for name in ("model", "system", "messages")}, COUNT))
    assert counted == {"input_tokens": used, "context_management": {"original_input_tokens": used}}


def test_fields_that_are_none_here_are_passed_over(engines: EnginesUnderTest) -> None:
    body = messages(QUESTION, max_tokens=2, return_token_ids=True, min_tokens=2, request_id="mine", frobnicate=1)
    reply = answer(post(engines.union, body, PATH))
    assert "token_ids" not in reply
    assert reply["id"] != "chatcmpl-mine"


def test_handed_over_by_its_own_path(engines: EnginesUnderTest) -> None:
    """E as for chat; the block with the image goes to P and D: messages have no block for embeddings."""
    expected = said(answer(post(engines.union, messages(picture(3), QUESTION), PATH)))
    encode(engines, image(3))
    leg = messages(picture(3), QUESTION, max_tokens=1, kv_transfer_params=PREFILL_FOR_SOMEBODY)
    params = answer(post(engines.prefill, leg, PATH))["kv_transfer_params"]
    assert params["do_remote_prefill"] is True
    assert None in params.values(), "nulls in it are kept"
    reply = answer(post(engines.decode, messages(picture(3), QUESTION, kv_transfer_params=params), PATH))
    assert said(reply) == expected
    assert "kv_transfer_params" not in reply


def test_a_chat_leg_prefills_for_a_message(engines: EnginesUnderTest) -> None:
    expected = said(answer(post(engines.union, messages(picture(4), QUESTION), PATH)))
    params = prefill(engines, chat(encode(engines, image(4)), QUESTION))
    handed = messages(picture(4), QUESTION, kv_transfer_params=params)
    deltas = [event["delta"] for event in stream(engines.decode, handed) if event["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == expected


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "nobody"}, 404, "NotFoundError"),
        ({"messages": [], "system": None}, 400, "BadRequestError"),
        ({"messages": [{"role": "user", "content": "many words " * MAX_MODEL_LEN}]}, 400, "BadRequestError"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "ftp://host/x"}}]}
                ]
            },
            *(400, "BadRequestError"),
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/x.png"}}],
                    }
                ]
            },
            *(500, "InternalServerError"),
        ),
    ],
    ids=["model", "nothing", "too long", "no image", "image that cannot be had"],
)
def test_refusals_in_anthropic_form(engines: EnginesUnderTest, path: str, fields: JSON, status: int, kind: str) -> None:
    response = post(engines.union, messages(QUESTION, **fields), path)
    assert response.status_code == status, response.text
    reply = response.json()
    assert list(reply) == ["type", "error"]
    assert (reply["type"], reply["error"]["type"]) == ("error", kind)
    assert list(reply["error"]) == ["type", "message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "body.model"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"max_tokens": "many"}, "body.max_tokens"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "body.messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "body.messages.0.content"),
        ({"stop_sequences": ["1", "2", "3", "4", "5"]}, "body.stop_sequences"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "body"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bodies_that_do_not_validate_are_refused_in_openai_form(
    engines: EnginesUnderTest, fields: JSON, param: str
) -> None:
    response = post(engines.union, messages(QUESTION, **fields), PATH)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("Bad Request", param, 400)
