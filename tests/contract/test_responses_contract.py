"""`/v1/responses`: the answer of chat as a response object, its events, and what is not kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from engine_legs import JSON, PREFILL_FOR_SOMEBODY, TIMEOUT, answer, chat, encode, image, post, text
from engines_under_test import MODEL, EnginesUnderTest
from typed_events import typed_events

PATH = "/v1/responses"
QUESTION = "What is in the picture?"
FIELDS = [
    *("id", "created_at", "incomplete_details", "instructions", "metadata", "model", "object", "output"),
    *("parallel_tool_calls", "temperature", "tool_choice", "tools", "top_p", "background", "max_output_tokens"),
    *("max_tool_calls", "previous_response_id", "prompt", "reasoning", "service_tier", "status", "text"),
    *("top_logprobs", "truncation", "usage", "user", "presence_penalty", "frequency_penalty"),
    *("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages"),
]


def asked(*parts: JSON, **fields: Any) -> JSON:
    """The request that says what `chat` says."""
    base = {"model": MODEL, "max_output_tokens": 8, "temperature": 0, "instructions": "You are a helpful assistant."}
    content = [*parts, {"type": "input_text", "text": QUESTION}]
    return {**base, "input": [{"role": "user", "content": content}], "ignore_eos": True, **fields}


def picture(seed: int) -> JSON:
    """The part that says what `image` says."""
    return {"type": "input_image", "image_url": image(seed)["image_url"]["url"]}


def said(reply: JSON) -> str:
    """The text of an answer that has some."""
    (item,) = reply["output"]
    (part,) = item["content"]
    words: str = part["text"]
    return words


def stream(base: str, body: JSON) -> list[JSON]:
    """The events of a stream, numbered."""
    events = typed_events(httpx.post(base + PATH, json={**body, "stream": True}, timeout=TIMEOUT))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_a_response_is_the_answer_of_chat(engines: EnginesUnderTest) -> None:
    body = chat(image(1), text(QUESTION), max_tokens=8, ignore_eos=True)
    expected = answer(post(engines.union, body))
    response = post(engines.union, asked(picture(1), request_id="resp_mine"), PATH, request_id="abc")
    reply = answer(response)
    assert list(reply) == FIELDS
    assert (reply["id"], reply["object"], reply["model"]) == ("resp_mine", "response", MODEL)
    assert response.headers["x-request-id"] == "abc"
    assert said(reply) == expected["choices"][0]["message"]["content"]
    (item,) = reply["output"]
    assert item == {
        "id": item["id"],
        "content": [{"annotations": [], "text": said(reply), "type": "output_text", "logprobs": None}],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert reply["max_output_tokens"] == 8
    assert (reply["temperature"], reply["top_p"], reply["tool_choice"]) == (0.0, 1.0, "none")
    usage = reply["usage"]
    assert list(usage) == [
        *("input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens")
    ]
    assert usage["input_tokens"] == expected["usage"]["prompt_tokens"]
    assert (usage["output_tokens"], usage["total_tokens"]) == (8, usage["input_tokens"] + 8)
    assert (reply["kv_transfer_params"], reply["ec_transfer_params"]) == (None, None)


def test_text_alone_is_a_users_message(engines: EnginesUnderTest) -> None:
    by_text = answer(post(engines.union, asked(input=QUESTION), PATH))
    by_item = answer(post(engines.union, asked(), PATH))
    assert said(by_text) == said(by_item)


def test_the_events_of_a_response(engines: EnginesUnderTest) -> None:
    whole = answer(post(engines.union, asked(), PATH))
    events = stream(engines.union, asked())
    names = [event["type"].removeprefix("response.") for event in events]
    assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    created, going, added, part, *deltas, text_done, part_done, item_done, completed = events
    assert created["response"] == going["response"]
    assert list(created["response"]) == FIELDS
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["response"]["usage"] is None
    item_id = added["item"]["id"]
    assert added["item"] == {
        "id": item_id,
        "content": [],
        "role": "assistant",
        "status": "in_progress",
        "type": "message",
        "phase": None,
    }
    assert part["part"] == {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
    assert {event["type"] for event in deltas} == {"response.output_text.delta"}
    place = ["content_index", "delta", "item_id", "logprobs", "output_index", "sequence_number", "type"]
    assert all(list(event) == place for event in deltas)
    assert "".join(event["delta"] for event in deltas) == said(whole)
    assert text_done["text"] == part_done["part"]["text"] == item_done["item"]["content"][0]["text"] == said(whole)
    assert {event["item_id"] for event in (part, *deltas, text_done, part_done)} == {item_id}
    last = completed["response"]
    assert list(last) == FIELDS
    assert last["output"] == [item_done["item"]]
    assert (last["status"], last["usage"]["output_tokens"]) == ("incomplete", 8)


def test_handed_over_by_its_own_path(engines: EnginesUnderTest) -> None:
    """E as for chat; the part with the image goes to P and D: responses have no part for embeddings."""
    expected = said(answer(post(engines.union, asked(picture(3)), PATH)))
    encode(engines, image(3))
    leg = asked(picture(3), max_output_tokens=1, store=False, kv_transfer_params=PREFILL_FOR_SOMEBODY)
    params = answer(post(engines.prefill, leg, PATH))["kv_transfer_params"]
    assert params["do_remote_prefill"] is True
    reply = answer(post(engines.decode, asked(picture(3), kv_transfer_params=params), PATH))
    assert said(reply) == expected
    assert reply["kv_transfer_params"] is None


def test_the_last_event_of_a_prefill_leg_has_the_parameters(engines: EnginesUnderTest) -> None:
    expected = said(answer(post(engines.union, asked(), PATH)))
    leg = asked(max_output_tokens=1, kv_transfer_params=PREFILL_FOR_SOMEBODY)
    params = stream(engines.prefill, leg)[-1]["response"]["kv_transfer_params"]
    assert said(stream(engines.decode, asked(kv_transfer_params=params))[-1]["response"]) == expected


def test_nothing_is_kept(engines: EnginesUnderTest) -> None:
    kept = answer(post(engines.union, asked(store=True), PATH))["id"]
    url = f"{engines.union}{PATH}/{kept}"
    for response in (httpx.get(url, timeout=60), httpx.post(f"{url}/cancel", timeout=60)):
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "response_id")
        assert kept in error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "param"),
    [
        ({"model": "nobody"}, 404, "NotFoundError", "model"),
        ({"input": 5}, 400, "Bad Request", "body.input"),
        ({"input": [{"role": "user", "content": [image(1)]}]}, 400, "Bad Request", "body.input"),
        ({"input": [{"role": "user", "content": [text("chat's")]}]}, 400, "Bad Request", "body.input"),
        ({"max_output_tokens": "many"}, 400, "Bad Request", "body.max_output_tokens"),
        ({"max_output_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"max_output_tokens": 5000}, 400, "BadRequestError", "max_output_tokens"),
        ({"prompt": {"id": "p"}}, 400, "BadRequestError", "prompt"),
        ({"background": True, "store": False}, 400, "BadRequestError", "background"),
        ({"background": True}, 400, "invalid_request_error", "background"),
        ({"previous_response_id": "resp_x"}, 404, "invalid_request_error", "response_id"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(engines: EnginesUnderTest, fields: JSON, status: int, kind: str, param: str) -> None:
    response = post(engines.union, asked(**fields), PATH)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)


def test_an_error_before_the_stream_is_no_stream(engines: EnginesUnderTest) -> None:
    response = post(engines.union, asked(model="nobody", stream=True), PATH)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/json")


def test_a_stream_whose_kv_is_gone_is_cut(engines: EnginesUnderTest) -> None:
    """No error event: what an engine finds out after its 200, it does not say."""
    nowhere = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [[1]],
        "remote_engine_id": "00000000-0000-0000-0000-000000000000",
        "remote_request_id": "resp_gone_0-00000000",
        "remote_host": "127.0.0.1",
        "remote_port": 1,
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": 16,
        "remote_blocks_expiry_time": None,
        "transfer_mode": "pull",
    }
    body = asked(kv_transfer_params=nowhere, stream=True)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(engines.decode + PATH, json=body, timeout=TIMEOUT)
    assert httpx.get(f"{engines.decode}/health", timeout=60).status_code == 200
