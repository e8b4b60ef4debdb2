"""Bodies no engine should see: a clear 4xx with an error object each, nothing sent on, nothing opened."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from answers import CHAT, COMPLETIONS, ask_one
from fleet_under_test import Engines, Gateway
from images import image, text_chat

USER = {"role": "user", "content": "hello"}
IMAGE = {"type": "image_url", "image_url": {"url": image(1)}}
GRID = {"image_grid_thw": [1, 4, 4]}


def chat(**fields: Any) -> dict[str, Any]:
    """A chat request with these fields added or, as None, still there."""
    return {"model": "tiny", "messages": [USER], "max_tokens": 2, **fields}


def part(**fields: Any) -> dict[str, Any]:
    """A chat request with one content part beside a text."""
    return chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, fields]}])


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    """The same body without a field."""
    return {key: value for key, value in body.items() if key != name}


def file_image(path: str) -> dict[str, Any]:
    """A chat request with this URL as an image."""
    return part(type="image_url", image_url={"url": path})


BROKEN: dict[str, tuple[str, bytes | dict[str, Any] | list[Any]]] = {
    "empty body": (CHAT, b""),
    "not JSON": (CHAT, b"hello"),
    "half JSON": (CHAT, b'{"model":"tiny","messages":[{"role":"user"'),
    "two objects": (CHAT, b'{"model":"tiny"}{"model":"tiny"}'),
    "a list": (CHAT, [chat()]),
    "null": (CHAT, b"null"),
    "not UTF-8": (CHAT, b'{"model":"tiny","messages":[{"role":"user","content":"\xff\xfe"}]}'),
    "a lone surrogate as model": (CHAT, b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}]}'),
    "nested 100,000 deep": (CHAT, b'{"model":"tiny","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nested deep in a part": (
        CHAT,
        b'{"model":"tiny","messages":[{"role":"user","content":[{"type":"text","text":'
        + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}]}]}",
    ),
    "no model": (CHAT, without(chat(), "model")),
    "model null": (CHAT, chat(model=None)),
    "model a number": (CHAT, chat(model=7)),
    "no messages": (CHAT, without(chat(), "messages")),
    "messages empty": (CHAT, chat(messages=[])),
    "messages a string": (CHAT, chat(messages="hello")),
    "messages an object": (CHAT, chat(messages=USER)),
    "messages of strings": (CHAT, chat(messages=["hello"])),
    "messages null": (CHAT, chat(messages=None)),
    "stream a string": (CHAT, chat(stream="yes")),
    "stream a number": (CHAT, chat(stream=1)),
    "n a string": (CHAT, chat(n="two")),
    "n zero": (CHAT, chat(n=0)),
    "n negative": (CHAT, chat(n=-1)),
    "n a million": (CHAT, chat(n=1_000_000)),
    "n a fraction": (CHAT, chat(n=1.5)),
    "max_tokens a string": (CHAT, chat(max_tokens="many")),
    "max_tokens negative": (CHAT, chat(max_tokens=-1)),
    "max_tokens huge": (CHAT, chat(max_tokens=10**30)),
    "max_completion_tokens a list": (CHAT, chat(max_completion_tokens=[])),
    "temperature a string": (CHAT, chat(temperature="hot")),
    "role missing": (CHAT, chat(messages=[{"content": "x"}])),
    "content an object": (CHAT, chat(messages=[{"role": "user", "content": {"type": "text", "text": "x"}}])),
    "content a number": (CHAT, chat(messages=[{"role": "user", "content": 5}])),
    "part of unknown type": (CHAT, part(type="hologram", hologram={})),
    "part without type": (CHAT, part(text_="x")),
    "part's type a number": (CHAT, part(type=4)),
    "image_url missing": (CHAT, part(type="image_url")),
    "image_url null": (CHAT, part(type="image_url", image_url=None)),
    "image_url without url": (CHAT, part(type="image_url", image_url={"href": "x"})),
    "url a number": (CHAT, part(type="image_url", image_url={"url": 3})),
    "image that is none": (CHAT, file_image("data:image/png;base64,aGVsbG8=")),
    "base64 that is none": (CHAT, file_image("data:image/png;base64,%%%%")),
    "javascript: URL": (CHAT, file_image("javascript:alert(1)")),
    "ftp: URL": (CHAT, file_image("ftp://example.org/x.png")),
    "no scheme": (CHAT, file_image("/etc/passwd")),
    "empty URL": (CHAT, file_image("")),
    "file: URL": (CHAT, file_image("file:///etc/passwd")),
    "FILE: URL": (CHAT, file_image("FILE:///etc/passwd")),
    "file: URL with a host": (CHAT, file_image("file://localhost/etc/passwd")),
    "no prompt": (COMPLETIONS, {"model": "tiny"}),
    "prompt a number": (COMPLETIONS, {"model": "tiny", "prompt": 5}),
    "prompt empty": (COMPLETIONS, {"model": "tiny", "prompt": []}),
    "prompt an object": (COMPLETIONS, {"model": "tiny", "prompt": {"prompt_token_ids": [1]}}),
    "prompt mixed": (COMPLETIONS, {"model": "tiny", "prompt": ["a", 1]}),
}  # fmt: skip

BARRED: dict[str, tuple[str, bytes | dict[str, Any]]] = {
    "uuid": (CHAT, part(**IMAGE, uuid="someone-elses")),
    "uuid null": (CHAT, part(**IMAGE, uuid=None)),
    "uuid on a text": (CHAT, part(type="text", text="x", uuid="y")),
    "uuid escaped": (CHAT, json.dumps(part(**IMAGE, uuid="y")).replace("uuid", "\\u0075uid").encode()),
    "image_embeds": (CHAT, part(type="image_embeds", image_embeds=GRID, uuid="unknown")),
    "image_embeds without uuid": (CHAT, part(type="image_embeds", image_embeds=GRID)),
    "image_embeds without type": (CHAT, part(image_embeds=GRID)),
    "image_embeds as type only": (CHAT, part(type="image_embeds")),
    "image_embeds type escaped": (
        CHAT,
        json.dumps(part(type="image_embeds", other=GRID)).replace("image_embeds", "\\u0069mage_embeds").encode(),
    ),
    "image_embeds in a second message": (
        CHAT,
        chat(messages=[USER, USER, {"role": "tool", "content": [{"type": "image_embeds", "image_embeds": GRID}]}]),
    ),
    "video_embeds": (CHAT, part(type="video_embeds", video_embeds={"video_grid_thw": [1, 4, 4]})),
    "audio_embeds": (CHAT, part(type="audio_embeds", audio_embeds="AAAA")),
    "prompt_embeds in a part": (CHAT, part(type="prompt_embeds", prompt_embeds="AAAA")),
    "prompt_embeds": (COMPLETIONS, {"model": "tiny", "prompt": "x", "prompt_embeds": "AAAA"}),
    "prompt_embeds in a chat": (CHAT, chat(prompt_embeds="AAAA")),
    "kv_transfer_params": (CHAT, chat(kv_transfer_params={"do_remote_prefill": True, "remote_block_ids": [[0]]})),
    "kv_transfer_params null": (CHAT, chat(kv_transfer_params=None)),
    "kv_transfer_params escaped": (
        CHAT,
        json.dumps(chat(kv_transfer_params={})).replace("kv_t", "\\u006bv_t").encode(),
    ),
    "kv_transfer_params twice": (
        CHAT,
        b'{"kv_transfer_params":{"a":1},"model":"tiny","messages":[{"role":"user","content":"x"}],'
        b'"kv_transfer_params":null}',
    ),
    "ec_transfer_params": (COMPLETIONS, {"model": "tiny", "prompt": "x", "ec_transfer_params": {}}),
    "request_id": (CHAT, chat(request_id="mine")),
    "kv_transfer_params in vllm_xargs": (CHAT, chat(vllm_xargs={"kv_transfer_params": "{}"})),
    "vllm_xargs a list": (CHAT, chat(vllm_xargs=["kv_transfer_params"])),
    "content twice, barred last": (
        CHAT,
        b'{"model":"tiny","messages":[{"role":"user","content":"x","content":[{"type":"text","text":"x","uuid":"y"}]}]}',
    ),
    "content escaped": (
        CHAT,
        b'{"model":"tiny","messages":[{"role":"user","\\u0063ontent":[{"type":"text","text":"x","uuid":"y"}]}]}',
    ),
    "messages twice, barred last": (
        CHAT,
        b'{"model":"tiny","messages":[{"role":"user","content":"x"}],'
        b'"m\\u0065ssages":[{"role":"user","content":[{"type":"text","text":"x","uuid":"y"}]}]}',
    ),
}


def send(gateway: Gateway, path: str, body: bytes | dict[str, Any] | list[Any], **headers: str) -> httpx.Response:
    """Post a body as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return plain_http.post(
        gateway.url + path, content=content, headers={"content-type": "application/json", **headers}, timeout=60
    )


def assert_refused(reply: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The error object of a refusal that says what is wrong and nothing of the inside."""
    assert reply.status_code in (statuses or (400,)), reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["message"]
    assert isinstance(error["type"], str)
    assert {"param", "code"} <= error.keys()
    for secret in ("Traceback", "127.0.0.1", "site-packages", 'File "'):
        assert secret not in reply.text
    return error


@pytest.fixture
def untouched(gateway: Gateway, engines: Engines) -> Iterator[None]:
    """After the test the gateway answers as before, and its ledger is zero."""
    yield
    assert ask_one(gateway.url, text_chat()).status == 200
    gateway.wait_until_idle()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_body(gateway: Gateway, case: str) -> None:
    path, body = BROKEN[case]
    assert_refused(send(gateway, path, body))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", BARRED)
def test_barred_field(gateway: Gateway, case: str) -> None:
    path, body = BARRED[case]
    legs_before = gateway.count("pymotor_leg_seconds_count")
    error = assert_refused(send(gateway, path, body))
    if "list" not in case:
        assert error["code"] == "field_not_allowed"
    assert gateway.count("pymotor_leg_seconds_count") == legs_before, "an engine was asked"


def test_barred_header(gateway: Gateway) -> None:
    for name in ("X-data-parallel-rank", "x-DATA-parallel-rank"):
        assert assert_refused(send(gateway, CHAT, chat(), **{name: "0"}))["code"] == "field_not_allowed"


def test_a_streamed_mistake_has_its_true_status(gateway: Gateway) -> None:
    assert_refused(send(gateway, CHAT, chat(stream=True, max_tokens=10**6)))
    assert_refused(send(gateway, CHAT, chat(stream=True, temperature=-3)))


@pytest.mark.parametrize("model", ["nobody-has-this", "", "../tiny", "tiny\u0000", "x" * 5000, "\U0001f600"])
def test_unknown_model(gateway: Gateway, model: str) -> None:
    error = assert_refused(send(gateway, CHAT, chat(model=model)), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert len(error["message"]) < 1000


def test_files_are_not_opened(gateway: Gateway, tmp_path: Path) -> None:
    """Nobody reads from the pipe: a writer that does not wait finds no reader."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for url in (
        f"file://{pipe}",
        f"file://localhost{pipe}",
        f"file:{pipe}",
        f"file:///x/..{pipe}",
        f"FiLe://{pipe}",
    ):
        for field in ("image_url", "video_url", "audio_url"):
            assert_refused(send(gateway, CHAT, part(type=field, **{field: {"url": url}})))
        assert_refused(send(gateway, CHAT, part(type="image_url", image_url=url)))
    with pytest.raises(OSError) as caught:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    assert caught.value.errno == errno.ENXIO


def test_a_trusted_client_may_send_what_others_may_not(engines: Engines, make_gateway: Any) -> None:
    gateway = make_gateway(engines, "union-0", config={"http_config": {"trust_client_fields": True}})
    assert send(gateway, CHAT, part(type="text", text="x", uuid="mine")).status_code == 200
    assert send(gateway, CHAT, chat(request_id="mine")).status_code == 200
