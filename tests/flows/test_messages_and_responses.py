"""Anthropic's Messages and OpenAI's Responses through encode, prefill and decode: what one engine would have answered.

Answers are compared but for what no two answers share: ids, times, and what was cached.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from answers import CHAT, Asked
from fleet_under_test import MODEL, PLAIN, Engines, Gateway, Role
from images import image
from processes import wait_until
from random_requests import some

MESSAGES, RESPONSES, COUNT = "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"
_VARYING = re.compile(r'"(id|item_id|created_at|created|cached_tokens)":("[^"]*"|[0-9.]+)')


def anthropic_image(seed: int) -> dict[str, Any]:
    """An image block."""
    media_type, _, data = image(seed).removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def input_image(seed: int) -> dict[str, Any]:
    """An `input_image` part."""
    return {"type": "input_image", "image_url": image(seed), "detail": "auto"}


def messages(*content: object, **fields: object) -> dict[str, Any]:
    """A body for /v1/messages with one message of these blocks."""
    asked = [{"role": "user", "content": list(content)}]
    return {"model": MODEL, "messages": asked, "max_tokens": 9, "temperature": 0, **fields}


def responses(*content: object, **fields: object) -> dict[str, Any]:
    """A body for /v1/responses with one message of these parts."""
    asked = [{"role": "user", "content": list(content)}]
    return {"model": MODEL, "input": asked, "max_output_tokens": 9, "temperature": 0, **fields}


TEXT = {"type": "text", "text": "What is to be seen here? " * 4}
INPUT_TEXT = {"type": "input_text", "text": TEXT["text"]}
TOOL_USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [TEXT, anthropic_image(7)]}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
CALL_OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": [INPUT_TEXT, input_image(7)]}
ASKED: dict[str, tuple[str, dict[str, Any], int]] = {
    # path, body, media items
    "messages: text": (MESSAGES, messages(TEXT, system="Be brief."), 0),
    "messages: a bare string": (
        MESSAGES,
        {**messages(), "messages": [{"role": "user", "content": "Hello there, all of you."}]},
        0,
    ),
    "messages: an image": (MESSAGES, messages(anthropic_image(1), TEXT), 1),
    "messages: two images": (MESSAGES, messages(anthropic_image(2), TEXT, anthropic_image(3)), 2),
    "messages: the same image twice": (MESSAGES, messages(anthropic_image(5), TEXT, anthropic_image(5)), 1),
    "messages: an image in a tool's result": (
        MESSAGES,
        {
            **messages(),
            "messages": [
                {"role": "user", "content": "Look."},
                {"role": "assistant", "content": [TOOL_USE]},
                {"role": "user", "content": [TOOL_RESULT]},
            ],
        },
        1,
    ),
    "messages: ends by a stop sequence or not": (MESSAGES, messages(TEXT, stop_sequences=["e", "a"]), 0),
    "responses: text": (RESPONSES, responses(INPUT_TEXT, instructions="Be brief."), 0),
    "responses: a bare string": (RESPONSES, {**responses(), "input": "Hello there, all of you."}, 0),
    "responses: an image": (RESPONSES, responses(input_image(1), INPUT_TEXT), 1),
    "responses: two images": (RESPONSES, responses(input_image(2), INPUT_TEXT, input_image(3)), 2),
    "responses: a seed": (RESPONSES, responses(INPUT_TEXT, temperature=0.8, seed=5), 0),
    "responses: history": (
        RESPONSES,
        {
            **responses(),
            "input": [
                {"role": "user", "content": "Look."},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I do."}]},
                {"role": "user", "content": [INPUT_TEXT, input_image(6)]},
            ],
        },
        1,
    ),
}


def comparable(reply: httpx.Response) -> object:
    """Status and content without what differs from answer to answer."""
    text = _VARYING.sub(r'"\1":0', reply.text)
    if reply.headers["content-type"].startswith("text/event-stream"):
        return (reply.status_code, text.split("\n\n"))
    found = json.loads(text)
    if reply.status_code == 200:
        for name in ("kv_transfer_params", "ec_transfer_params"):
            assert found.pop(name, None) is None
    return (reply.status_code, found)


def legs(reply: httpx.Response) -> list[str]:
    """The names of the legs it took."""
    return [entry.split(";")[0].strip() for entry in reply.headers["server-timing"].split(",")]


def post(url: str, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Send it."""
    return plain_http.post(url + path, json=body, headers=headers, timeout=60)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ASKED)
def test_answers_are_those_of_one_engine(engines: Engines, gateway: Gateway, name: str, stream: bool) -> None:
    path, body, images = ASKED[name]
    body = {**body, "stream": stream}
    found, expected = post(gateway.url, path, body), post(engines[PLAIN].url, path, body)
    assert expected.status_code == 200, expected.text
    assert comparable(found) == comparable(expected)
    assert [leg for leg in legs(found) if leg != "encode"] == ["prefill", "decode"]
    assert legs(found).count("encode") <= images, "an image that is in the store needs no encoder"


@pytest.fixture(scope="module")
def small(engines: Engines) -> Iterator[dict[str, Gateway]]:
    """A Gateway with each `forward_media`."""
    with ExitStack() as opened:
        yield {
            forward: opened.enter_context(Gateway(engines, config={"encode_config": {"forward_media": forward}}))
            for forward in ("prefill", "never", "always")
        }


@pytest.mark.parametrize(("forward", "names"), [
    ("prefill", ("encode-0", "union-0")), ("prefill", ("prefill-0",)), ("prefill", ("encode-0", "decode-0")),
    ("never", ("encode-0", "prefill-0", "decode-0")), ("always", ("encode-0", "prefill-0", "decode-0")),
    ("never", ("encode-0", "union-0")),
])  # fmt: skip
def test_answers_through_other_fleets(
    engines: Engines, small: dict[str, Gateway], forward: str, names: tuple[str, ...]
) -> None:
    gateway = small[forward]
    gateway.use(*names)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 3000}], "max_tokens": 1}
    wanted = sorted({name.split("-")[0] for name in names} - {"encode"}, reverse=True)
    wait_until(lambda: legs(post(gateway.url, "/v1/chat/completions", chat)) == wanted, f"requests go {wanted}")
    for name in ("messages: an image", "responses: an image", "messages: text", "responses: text"):
        path, body, _ = ASKED[name]
        assert comparable(post(gateway.url, path, body)) == comparable(post(engines[PLAIN].url, path, body))
    gateway.wait_until_idle()


def converted(asked: Asked, path: str) -> dict[str, Any]:
    """The body that says on this path what a chat says; always with one right answer."""
    chat = asked.body
    most = chat.get("max_tokens", chat.get("max_completion_tokens"))
    fields: dict[str, Any] = {"model": MODEL, "stream": chat.get("stream", False), "temperature": 0}
    turns = [(turn["role"], turn["content"]) for turn in chat["messages"]]
    text_kind, to_image = ("text", as_block) if path == MESSAGES else ("input_text", as_input)

    def content(said: Any) -> Any:
        if isinstance(said, str):
            return said
        return [
            {"type": text_kind, "text": part["text"]} if part["type"] == "text" else to_image(part) for part in said
        ]

    if path == MESSAGES:
        fields["max_tokens"] = most
        if turns[0][0] == "system":
            fields["system"] = turns.pop(0)[1]
        fields["messages"] = [{"role": role, "content": content(said)} for role, said in turns]
        return fields
    fields |= {"max_output_tokens": most, "ignore_eos": chat.get("ignore_eos", False)}
    fields |= {name: chat[name] for name in ("seed", "temperature") if "seed" in chat}
    fields["input"] = [{"role": role, "content": content(said)} for role, said in turns]
    return fields


def as_block(part: dict[str, Any]) -> dict[str, Any]:
    """A chat's image as Anthropic has it."""
    media_type, _, data = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def as_input(part: dict[str, Any]) -> dict[str, Any]:
    """A chat's image as Responses have it."""
    return {"type": "input_image", "image_url": part["image_url"]["url"]}


async def test_random_conversations(engines: Engines, gateway: Gateway) -> None:
    chats = [asked for asked in some(160) if asked.path == CHAT]
    asked = [(path, converted(chat, path)) for chat in chats for path in (MESSAGES, RESPONSES)]
    turns = asyncio.Semaphore(24)

    async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=60) as client:

        async def one(url: str, path: str, body: dict[str, Any]) -> object:
            async with turns:
                return comparable(await client.post(url + path, json=body))

        async def all_at(url: str) -> list[object]:
            return await asyncio.gather(*(one(url, path, body) for path, body in asked))

        found, expected = await all_at(gateway.url), await all_at(engines[PLAIN].url)
    different = [request for request, one, other in zip(asked, found, expected, strict=True) if one != other]
    assert not different, min(map(json.dumps, different), key=len)[:2000]
    assert sum(answer[0] == 200 for answer in expected if isinstance(answer, tuple)) == len(asked)
    gateway.wait_until_idle()


async def test_many_at_once(engines: Engines, gateway: Gateway) -> None:
    asked = [(path, {**body, "stream": bool(number % 2)}) for number in range(2) for path, body, _ in ASKED.values()]

    async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=60) as client:

        async def all_at(url: str) -> list[object]:
            replies = await asyncio.gather(*(client.post(url + path, json=body) for path, body in asked))
            return [comparable(reply) for reply in replies]

        assert await all_at(gateway.url) == await all_at(engines[PLAIN].url)
    gateway.wait_until_idle()


@pytest.mark.parametrize("name", [name for name in ASKED if name.startswith("messages")])
def test_tokens_are_counted_as_one_engine_counts_them(engines: Engines, gateway: Gateway, name: str) -> None:
    body = {key: value for key, value in ASKED[name][1].items() if key in ("model", "messages", "system")}
    found, expected = post(gateway.url, COUNT, body), post(engines[PLAIN].url, COUNT, body)
    assert (found.status_code, found.json()) == (200, expected.json())
    assert legs(found) == ["prefill"]


def test_tools_that_an_engine_runs_keep_it_at_one_engine(engines: Engines, gateway: Gateway) -> None:
    for kind, taken in (("function", ["prefill", "decode"]), ("code_interpreter", ["decode"])):
        tool = {"type": kind, "name": "f", "parameters": {}} if kind == "function" else {"type": kind, "container": "x"}
        body = responses(input_image(1), INPUT_TEXT, tools=[tool], tool_choice="none")
        found = post(gateway.url, RESPONSES, body)
        assert comparable(found) == comparable(post(engines[PLAIN].url, RESPONSES, body))
        assert [leg for leg in legs(found) if leg != "encode"] == taken


def test_answers_through_a_kv_store(tmp_path: Path) -> None:
    roles = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    asked = [*(ASKED[name][:2] for name in ASKED), (MESSAGES, messages(TEXT, max_tokens=1030, thinking=thinking))]
    with Engines(tmp_path, roles, kv_connector="ExampleConnector") as engines, Gateway(engines) as gateway:
        for path, body in asked:
            found = post(gateway.url, path, body)
            assert comparable(found) == comparable(post(engines[PLAIN].url, path, body))
            assert [leg for leg in legs(found) if leg != "encode"] == ["prefill", "decode"]


def test_each_event_of_a_stream_has_its_name(gateway: Gateway) -> None:
    for path, body in ((MESSAGES, messages(TEXT, stream=True)), (RESPONSES, responses(INPUT_TEXT, stream=True))):
        events = post(gateway.url, path, body).text.strip().split("\n\n")
        for event in events:
            first, second = event.split("\n")
            assert first.removeprefix("event: ") == json.loads(second.removeprefix("data: "))["type"]


@pytest.mark.parametrize(("path", "body", "status", "kind"), [
    (MESSAGES, {}, 400, "invalid_request_error"),
    (MESSAGES, messages(TEXT, model="nobody-has-this"), 404, "not_found_error"),
    (MESSAGES, messages(TEXT, kv_transfer_params={}), 400, "invalid_request_error"),
    (MESSAGES, messages(TEXT, max_tokens=0), 400, "invalid_request_error"),
    (MESSAGES, messages(TEXT, temperature=-1), 400, "invalid_request_error"),
    (MESSAGES, messages({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}), 400,
     "invalid_request_error"),
    (COUNT, {"model": MODEL, "messages": []}, 400, "invalid_request_error"),
])  # fmt: skip
def test_anthropic_errors_have_anthropics_form(
    gateway: Gateway, path: str, body: dict[str, Any], status: int, kind: str
) -> None:
    reply = post(gateway.url, path, body)
    told = reply.json()
    assert (reply.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)
    assert told["error"].keys() == {"type", "message"}
    assert told["error"]["message"]


@pytest.mark.parametrize(("body", "status", "param"), [
    ({"model": MODEL}, 400, "input"),
    (responses(INPUT_TEXT, model="nobody-has-this"), 404, "model"),
    (responses(INPUT_TEXT, request_id="mine"), 400, "request_id"),
    (responses(INPUT_TEXT, previous_input_messages=[]), 400, "previous_input_messages"),
    (responses({**input_image(1), "uuid": "another's"}), 400, "uuid"),
    ({**responses(), "input": [CALL, {**CALL_OUTPUT, "output": [{**input_image(1), "uuid": "x"}]}]}, 400, "uuid"),
    (responses({"type": "input_image", "image_url": "file:///etc/passwd"}), 400, "messages"),
    (responses(INPUT_TEXT, previous_response_id="resp_" + "0" * 48), 404, "previous_response_id"),
])  # fmt: skip
def test_errors_of_responses_have_openais_form(gateway: Gateway, body: dict[str, Any], status: int, param: str) -> None:
    reply = post(gateway.url, RESPONSES, body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


def test_broken_streams_end_with_the_error_of_their_api(mended: Engines, make_gateway: Any) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1")
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=6")
    for path, body in (
        (MESSAGES, messages(TEXT, stream=True, max_tokens=200)),
        (RESPONSES, responses(INPUT_TEXT, stream=True, max_output_tokens=200, ignore_eos=True)),
    ):
        *before, last = post(gateway.url, path, body).text.strip().split("\n\n")
        assert before, "content came before the break"
        name, _, data = last.partition("\ndata: ")
        told = json.loads(data)
        assert (name, told["type"]) == ("event: error", "error")
        assert "broke off" in told["error"]["message"]
        assert not any("message_stop" in event or "response.completed" in event for event in before)
    gateway.wait_until_idle()


def test_signs_of_life_do_no_harm_and_failures_are_told_after_them(mended: Engines, make_gateway: Any) -> None:
    config = {"http_config": {"stream_keepalive": 0.05}, "exception_config": {"retry_delay": 0.01, "max_retry": 1}}
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config)
    for path, body in (
        (MESSAGES, messages(TEXT, stream=True)),
        (RESPONSES, responses(INPUT_TEXT, stream=True)),
    ):
        mended["prefill-0"].fail("slow:seconds=1")
        before, _, content = post(gateway.url, path, body).text.rpartition(": waiting\n\n")
        assert set(before.split("\n\n")) <= {": waiting", ""}
        expected = post(mended[PLAIN].url, path, body)
        assert _VARYING.sub(r'"\1":0', content) == _VARYING.sub(r'"\1":0', expected.text)
        mended["prefill-0"].fail("slow:seconds=1", "error:code=500")
        reply = post(gateway.url, path, body)
        last = reply.text.rpartition(": waiting\n\n")[2]
        assert reply.status_code == 200
        assert last.startswith("event: error\ndata: ")
        assert json.loads(last.partition("data: ")[2])["error"]["message"]
