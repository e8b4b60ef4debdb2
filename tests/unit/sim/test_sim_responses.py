"""OpenAI's responses: the answer that chat gives, streams, what is kept, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sim_legs import REMOTE_DECODE, Engine, Engines, ec_flags, eventually, image, nixl_flags, text

PATH = "/v1/responses"
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Engine:
    return engines.start()


@pytest.fixture(scope="module")
def keeping(engines: Engines) -> Engine:
    """An engine that keeps responses."""
    return engines.start(environment={"VLLM_ENABLE_RESPONSES_API_STORE": "1"})


def body(given: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "sim-model", "input": given, "max_output_tokens": 24, "temperature": 0, **fields}


def seen(seed: int) -> list[dict[str, Any]]:
    """An input of one image and a question."""
    url = image(seed)["image_url"]["url"]
    parts = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": QUESTION}]
    return [{"role": "user", "content": parts}]


def answered(reply: dict[str, Any]) -> str:
    ((part,),) = (item["content"] for item in reply["output"])
    answer: str = part["text"]
    return answer


def events_of(content: str) -> list[dict[str, Any]]:
    blocks = content.split("\n\n")
    assert blocks.pop() == ""
    parsed = []
    for block in blocks:
        name, data = block.split("\n")
        parsed.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


def events(engine: Engine, request: dict[str, Any]) -> list[dict[str, Any]]:
    response = engine.post(PATH, {**request, "stream": True})
    assert response.status_code == 200, response.text
    return events_of(response.text)


def test_the_answer_is_the_one_chat_gives(engine: Engine) -> None:
    chat = engine.chat([image(3), text(QUESTION)]).json()
    reply = engine.post(PATH, body(seen(3), request_id="resp_mine"), headers={"X-Request-Id": "abc"}).json()
    assert answered(reply) == chat["choices"][0]["message"]["content"]
    assert reply["id"] == "resp_mine"
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert reply["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert reply["usage"]["output_tokens"] == reply["max_output_tokens"] == 24
    assert reply["kv_transfer_params"] is None


def test_a_stream_is_the_answer_in_pieces(engine: Engine) -> None:
    whole = engine.post(PATH, body("hello")).json()
    parts = events(engine, body("hello"))
    assert [event["sequence_number"] for event in parts] == list(range(len(parts)))
    names = [event["type"].removeprefix("response.") for event in parts]
    assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(names[4:-4]) == {"output_text.delta"}
    assert "".join(event["delta"] for event in parts[4:-4]) == answered(whole) == parts[-4]["text"]
    last = parts[-1]["response"]
    assert list(last) == list(whole)
    assert answered(last) == answered(whole)
    assert last["output"][0]["id"] == parts[4]["item_id"]
    assert last["usage"]["output_tokens"] == 24
    assert parts[0]["response"] == parts[1]["response"] == {**last, **parts[0]["response"]}
    assert (parts[0]["response"]["status"], parts[0]["response"]["output"]) == ("in_progress", [])


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"instructions": "be brief"}, [{"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}]),
        (
            {
                "input": [
                    {"type": "message", "role": "developer", "content": "d"},
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
                    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "seen"},
                ]
            },
            [
                {"role": "developer", "content": "d"},
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "content": "b",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
                },
                {"role": "tool", "content": "seen"},
            ],
        ),
    ],
    ids=["instructions", "items"],
)
def test_equal_conversations_are_equal_tokens(
    engine: Engine, fields: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    assert (
        answered(engine.post(PATH, body("x", **fields)).json())
        == (engine.chat("", messages=messages).json()["choices"][0]["message"]["content"])
    )


def test_an_answer_goes_on_from_an_unfinished_item(engine: Engine) -> None:
    whole = answered(engine.post(PATH, body("go on")).json())
    begun = {"type": "message", "role": "assistant", "status": "in_progress", "content": whole[:10]}
    rest = engine.post(PATH, body([{"role": "user", "content": "go on"}, begun], max_output_tokens=14)).json()
    assert answered(rest) == whole[10:]


def test_through_all_stages(engines: Engines, tmp_path: Path) -> None:
    encode = engines.start(*ec_flags("ec_producer", tmp_path))
    prefill = engines.start(*ec_flags("ec_consumer", tmp_path), *nixl_flags("kv_producer"))
    decode = engines.start(*nixl_flags("kv_consumer"))
    expected = answered(engines.start().post(PATH, body(seen(5))).json())
    assert encode.chat([image(5)], max_tokens=1).status_code == 200
    leg = body(seen(5), max_output_tokens=1, store=False, kv_transfer_params=REMOTE_DECODE)
    params = prefill.post(PATH, leg).json()["kv_transfer_params"]
    assert params["remote_request_id"].startswith("resp_")
    reply = decode.post(PATH, body(seen(5), kv_transfer_params=params)).json()
    assert answered(reply) == expected
    assert reply["kv_transfer_params"] is None
    streamed = events(prefill, leg)[-1]["response"]["kv_transfer_params"]
    assert answered(events(decode, body(seen(5), kv_transfer_params=streamed))[-1]["response"]) == expected
    prefill.fault("kv_late:count=1")
    late = prefill.post(PATH, leg).json()["kv_transfer_params"]
    assert answered(decode.post(PATH, body(seen(5), kv_transfer_params=late)).json()) != expected


@pytest.mark.parametrize(
    ("fields", "status", "kind", "param"),
    [
        ({"input": 5}, 400, "Bad Request", "body.input"),
        ({"input": [{"role": "user", "content": [image(1)]}]}, 400, "Bad Request", "body.input"),
        ({"input": [{"type": "hologram"}]}, 400, "BadRequestError", "input"),
        ({"max_output_tokens": "many"}, 400, "Bad Request", "body.max_output_tokens"),
        ({"max_output_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"prompt": {"id": "p"}}, 400, "BadRequestError", "prompt"),
        ({"background": True, "store": False}, 400, "BadRequestError", "background"),
        ({"background": True}, 400, "invalid_request_error", "background"),
        ({"previous_response_id": "resp_x"}, 404, "invalid_request_error", "response_id"),
        ({"model": "nobody"}, 404, "NotFoundError", "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(engine: Engine, fields: dict[str, Any], status: int, kind: str, param: str) -> None:
    response = engine.post(PATH, body("x", **fields))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"], error["param"]) == (status, status, kind, param)


def test_without_a_store_nothing_is_kept(engine: Engine) -> None:
    reply = engine.post(PATH, body("x")).json()
    for response in (engine.get(f"{PATH}/{reply['id']}"), engine.post(f"{PATH}/{reply['id']}/cancel", {})):
        assert response.status_code == 404
        assert response.json()["error"]["param"] == "response_id"


def test_what_is_kept(keeping: Engine) -> None:
    first = keeping.post(PATH, body("hello", instructions="be brief")).json()
    assert keeping.get(f"{PATH}/{first['id']}").json() == first
    streamed = events(keeping, body("hello"))[-1]["response"]
    assert keeping.get(f"{PATH}/{streamed['id']}").json() == streamed
    unkept = keeping.post(PATH, body("hello", store=False)).json()
    assert keeping.get(f"{PATH}/{unkept['id']}").status_code == 404
    refused = keeping.post(f"{PATH}/{first['id']}/cancel", {})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    second = keeping.post(PATH, body("and then?", previous_response_id=first["id"])).json()
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": answered(first)},
        {"role": "user", "content": "and then?"},
    ]
    assert answered(second) == keeping.chat("", messages=history).json()["choices"][0]["message"]["content"]


def test_in_the_background(keeping: Engine) -> None:
    whole = keeping.post(PATH, body("hello")).json()
    queued = keeping.post(PATH, body("hello", background=True)).json()
    assert (queued["status"], queued["output"]) == ("queued", [])
    eventually(lambda: keeping.get(f"{PATH}/{queued['id']}").json()["status"] == "incomplete")
    assert answered(keeping.get(f"{PATH}/{queued['id']}").json()) == answered(whole)
    streamed = events(keeping, body("hello", background=True))
    assert answered(streamed[-1]["response"]) == answered(whole)
    again = keeping.get(f"{PATH}/{streamed[0]['response']['id']}?stream=true&starting_after=3")
    assert events_of(again.text) == streamed[4:]
    wrong = keeping.get(f"{PATH}/{streamed[0]['response']['id']}?stream=true&starting_after=soon")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "query.starting_after")
    keeping.fault("late_error:count=1")
    failing = keeping.post(PATH, body("hello", background=True)).json()
    eventually(lambda: keeping.get(f"{PATH}/{failing['id']}").json()["status"] == "failed")


def test_cancel(engines: Engines) -> None:
    slow = engines.start("--sim-speed", "1", environment={"VLLM_ENABLE_RESPONSES_API_STORE": "1"})
    running = slow.post(PATH, body("hello", background=True, max_output_tokens=30_000, ignore_eos=True)).json()
    eventually(lambda: slow.state()["running"] == 1)
    assert slow.post(f"{PATH}/{running['id']}/cancel", {}).json()["status"] == "cancelled"
    eventually(lambda: slow.state()["running"] == 0)
    assert slow.get(f"{PATH}/{running['id']}").json()["status"] == "cancelled"
    forever = body("x", background=True, stream=True, max_output_tokens=30_000, ignore_eos=True)
    with httpx.stream("POST", slow.url + PATH, json=forever) as response:
        assert response.status_code == 200
    eventually(lambda: slow.state()["running"] == 1)  # what runs in the background does not end with its client


def test_a_stream_that_fails_is_cut(engine: Engine) -> None:
    engine.fault("late_error:count=2")
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        engine.post(PATH, body("x", stream=True))
    failed = engine.post(PATH, body("x"))
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, "InternalServerError")
    engine.fault("recomputed:after=3,count=1")
    hidden = engine.post(PATH, body("x")).json()
    assert (hidden["status"], hidden["usage"]["output_tokens"]) == ("completed", 3)


def test_openai_sdk(engine: Engine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="any", max_retries=0) as client:
        whole = client.responses.create(model="sim-model", input="hello", max_output_tokens=9, temperature=0)
        with client.responses.stream(model="sim-model", input="hello", max_output_tokens=9, temperature=0) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == whole.output_text
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(whole.id)
