"""Anthropic's messages: the same conversation, the same tokens, the same handoffs as by chat; errors in their form."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from sim_legs import REMOTE_DECODE, Engine, Engines, ec_flags, embeds, image, nixl_flags, png, text

from typed_events import typed_events

PATH = "/v1/messages"
TEXT = {"type": "text", "text": "What is in the picture?"}


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Engine:
    return engines.start("--enable-prompt-tokens-details", "--no-enable-prefix-caching")


def picture(seed: int) -> dict[str, Any]:
    data = b64encode(png(seed)).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def body(content: Any, **fields: Any) -> dict[str, Any]:
    base = {"model": "sim-model", "max_tokens": 24, "temperature": 0}
    return {**base, "messages": [{"role": "user", "content": content}], **fields}


def events(engine: Engine, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream."""
    return typed_events(engine.post(PATH, {**request, "stream": True}))


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


def test_the_answer_is_the_one_chat_gives(engine: Engine) -> None:
    chat = engine.chat([image(3), text(TEXT["text"])]).json()
    reply = engine.post(PATH, body([picture(3), TEXT]), headers={"X-Request-Id": "abc"}).json()
    assert list(reply) == ["id", "type", "role", "content", "model", "stop_reason", "usage"]
    assert (reply["id"], reply["type"], reply["role"]) == ("chatcmpl-abc", "message", "assistant")
    assert reply["content"] == [{"type": "text", "text": chat["choices"][0]["message"]["content"]}]
    assert reply["stop_reason"] == "max_tokens"
    assert reply["usage"] == {
        "input_tokens": chat["usage"]["prompt_tokens"],
        "output_tokens": 24,
        "cache_read_input_tokens": 0,
    }


def test_a_stream_is_the_answer_in_pieces(engine: Engine) -> None:
    whole = engine.post(PATH, body("hello")).json()
    first, start, *deltas, stop, last, end = events(engine, body("hello"))
    assert first["message"]["content"] == []
    assert first["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert start == {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
    assert said(deltas) == whole["content"][0]["text"]
    assert stop == {"type": "content_block_stop", "index": 0}
    assert last["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert last["usage"] == whole["usage"]
    assert end == {"type": "message_stop"}


@pytest.mark.parametrize(
    ("messages", "chat_messages"),
    [
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}],
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        (
            [{"role": "system", "content": "be brief"}, {"role": "user", "content": [TEXT, picture(1), TEXT]}],
            [{"role": "system", "content": "be brief"}, {"role": "user", "content": [TEXT, image(1), TEXT]}],
        ),
        (
            [
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {"at": 1}}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, picture(2)]},
                        {"type": "text", "text": "well?"},
                    ],
                },
            ],
            [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "t", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "t", "content": TEXT["text"]},
                {"role": "user", "content": [image(2)]},
                {"role": "user", "content": "well?"},
            ],
        ),
    ],
    ids=["roles", "system and media", "tools"],
)
def test_equal_conversations_are_equal_tokens(engine: Engine, messages: list[Any], chat_messages: list[Any]) -> None:
    counted = engine.post(PATH + "/count_tokens", {"model": "sim-model", "messages": messages}).json()
    ids = engine.post("/tokenize", {"messages": chat_messages}).json()
    assert counted["input_tokens"] == counted["context_management"]["original_input_tokens"] == ids["count"]
    by_messages = engine.post(PATH, {**body(""), "messages": messages}).json()
    by_chat = engine.chat("", messages=chat_messages).json()
    assert by_messages["content"][0]["text"] == by_chat["choices"][0]["message"]["content"]


def test_system_blocks_are_one_system_message(engine: Engine) -> None:
    blocks = [{"type": "text", "text": "x-anthropic-billing-header: 1"}, text("be "), text("brief")]
    counts = {
        engine.post(PATH + "/count_tokens", body("hello", system=system)).json()["input_tokens"]
        for system in (blocks, "be brief")
    }
    assert len(counts) == 1


def test_why_it_stopped(engine: Engine) -> None:
    answer = engine.post(PATH, body("stop me")).json()["content"][0]["text"]
    stopped = engine.post(PATH, body("stop me", stop_sequences=[answer[5:7]])).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", answer[5:7])
    assert stopped["content"][0]["text"] == answer[: answer.index(answer[5:7])]
    last = events(engine, body("stop me", stop_sequences=[answer[5:7]]))[-2]
    assert last["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": answer[5:7]}
    engine.fault("recomputed:after=3,count=1,path=/v1/messages")
    assert engine.post(PATH, body("x")).json()["stop_sequence"] == "recomputed"


def test_through_all_stages(engines: Engines, tmp_path: Path) -> None:
    encode = engines.start(*ec_flags("ec_producer", tmp_path))
    prefill = engines.start(*ec_flags("ec_consumer", tmp_path), *nixl_flags("kv_producer"))
    decode = engines.start(*nixl_flags("kv_consumer"))
    union = engines.start()
    request = body([picture(7), TEXT])
    expected = union.post(PATH, request).json()["content"]
    encoded = encode.chat([image(7)], max_tokens=1)
    leg = {**request, "max_tokens": 1, "kv_transfer_params": REMOTE_DECODE}
    first = prefill.post(PATH, leg).json()
    assert first["kv_transfer_params"]["do_remote_prefill"] is True
    handed = {**request, "kv_transfer_params": first["kv_transfer_params"]}
    reply = decode.post(PATH, handed).json()
    assert reply["content"] == expected
    assert "kv_transfer_params" not in reply
    again = prefill.post(PATH, leg).json()["kv_transfer_params"]
    assert said(events(decode, {**request, "kv_transfer_params": again})) == expected[0]["text"]
    decode.fault("kv_drop:count=1")
    lost = prefill.post(PATH, leg).json()["kv_transfer_params"]
    assert decode.post(PATH, {**request, "kv_transfer_params": lost}).json()["content"] != expected
    by_chat = prefill.chat([*embeds(encoded), text(TEXT["text"])], max_tokens=1, kv_transfer_params=REMOTE_DECODE)
    params = by_chat.json()["kv_transfer_params"]
    assert decode.post(PATH, {**request, "kv_transfer_params": params}).json()["content"] == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "body.model"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"max_tokens": None}, "body.max_tokens"),
        ({"messages": None}, "body.messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "body.messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "body.messages.0.content"),
        ({"stop_sequences": list("abcde")}, "body.stop_sequences"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "body"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bodies_that_do_not_validate_are_refused_in_openai_form(
    engine: Engine, fields: dict[str, Any], param: str
) -> None:
    response = engine.post(PATH, body("x", **fields))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "Bad Request", param)


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "nobody"}, 404, "NotFoundError"),
        ({"messages": []}, 400, "BadRequestError"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, 400, "BadRequestError"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("path", [PATH, PATH + "/count_tokens"])
def test_other_refusals_are_in_anthropic_form(
    engine: Engine, path: str, fields: dict[str, Any], status: int, kind: str
) -> None:
    response = engine.post(path, body("x", **fields))
    assert response.status_code == status
    reply = response.json()
    assert list(reply) == ["type", "error"]
    assert (reply["type"], reply["error"]["type"]) == ("error", kind)
    assert list(reply["error"]) == ["type", "message"]


def test_a_prefill_leg_may_think_longer_than_it_answers(engine: Engine) -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    response = engine.post(PATH, body("x", max_tokens=1, thinking=thinking, kv_transfer_params=REMOTE_DECODE))
    assert response.status_code == 200


def test_faults_have_this_form(engine: Engine) -> None:
    engine.fault("late_error:count=2", "error:code=503,count=1,path=/v1/messages/count_tokens")
    first, last = events(engine, body("x"))
    assert first["type"] == "message_start"
    assert last["type"] == "error"
    assert last["error"]["type"] == "internal_error"
    failed = engine.post(PATH, body("x"))
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, "InternalServerError")
    assert engine.post(PATH + "/count_tokens", body("x")).status_code == 503
    engine.fault("cut:after=4,count=1")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        events(engine, body("x"))
    whole = engine.post(PATH, body("x")).json()["content"][0]["text"]
    engine.fault("split:bytes=5,count=1", "merge:events=4,count=1")
    assert said(events(engine, body("x"))) == whole


def test_a_temperature_below_zero_is_refused_in_anthropic_form(engine: Engine) -> None:
    response = engine.post(PATH, body("x", temperature=-1))
    assert (response.status_code, response.json()["error"]["type"]) == (400, "BadRequestError")


def test_anthropic_sdk(engine: Engine) -> None:
    conversation: Any = [{"role": "user", "content": [picture(1), TEXT]}]
    asked: Any = {"model": "sim-model", "max_tokens": 9, "messages": conversation, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=engine.url, api_key="any", max_retries=0) as client:
        whole = client.messages.create(**asked)
        assert isinstance(whole.content[0], anthropic.types.TextBlock)
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
            assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
        counted = client.messages.count_tokens(model="sim-model", messages=conversation)
        assert counted.input_tokens == whole.usage.input_tokens
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**{**asked, "model": "unknown"})
        engine.fault("late_error:count=1,path=/v1/messages")
        with pytest.raises(anthropic.APIStatusError), client.messages.stream(**asked) as stream:
            stream.until_done()
