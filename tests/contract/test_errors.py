"""Bad requests: status and error object."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any

import httpx
import pytest

from engine_legs import CHAT, COMPLETIONS, answer, chat, post, stream, text
from engines_under_test import MAX_MODEL_LEN, EnginesUnderTest

HELLO = text("hello")


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert error["message"]
    return error


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("streamed", [False, True])
def test_unknown_model(engines: EnginesUnderTest, path: str, streamed: bool) -> None:
    body = {**chat(HELLO), "prompt": "hello", "model": "nobody", "stream": streamed}
    error = error_of(post(engines.union, body, path), 404)
    assert (error["type"], error["param"]) == ("NotFoundError", "model")
    assert "nobody" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": MAX_MODEL_LEN + 1}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"n": 0}, None),
        ({"n": 2}, None),
        ({"max_tokens": 1, "min_tokens": 5}, None),
        ({"messages": []}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_make_no_sense(engines: EnginesUnderTest, fields: dict[str, Any], param: str | None) -> None:
    error = error_of(post(engines.union, {**chat(HELLO), **fields}), 400)
    assert (error["type"], error["param"]) == ("BadRequestError", param)


def test_a_prompt_that_is_too_long(engines: EnginesUnderTest) -> None:
    error = error_of(post(engines.union, chat(text("many words " * MAX_MODEL_LEN), max_tokens=1)), 400)
    assert (error["type"], error["param"]) == ("BadRequestError", "input_tokens")
    assert str(MAX_MODEL_LEN) in error["message"]


@pytest.mark.parametrize("url", ["data:image/png;base64,@@@@", "data:image/png;base64,AAAA", "ftp://host/x.png"])
def test_images_that_are_none(engines: EnginesUnderTest, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    for base in (engines.encode, engines.union):
        assert error_of(post(base, chat(part, HELLO, max_tokens=1)), 400)["type"] == "BadRequestError"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "http://127.0.0.1:1/refused.png"])
def test_images_that_cannot_be_had_are_the_servers_fault(engines: EnginesUnderTest, url: str) -> None:
    """vLLM says 500 here, so a gateway must not take every 500 for a broken engine."""
    part = {"type": "image_url", "image_url": {"url": url}}
    assert error_of(post(engines.encode, chat(part, max_tokens=1)), 500)["type"] == "InternalServerError"
    assert httpx.get(f"{engines.encode}/health", timeout=60).status_code == 200


def test_after_an_internal_error_the_connection_is_of_no_more_use(engines: EnginesUnderTest) -> None:
    """vLLM closes it without announcing that."""
    part = {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}
    connection = http.client.HTTPConnection(engines.encode.removeprefix("http://"), timeout=60)
    with closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", CHAT, json.dumps(chat(part, max_tokens=1)), headers)
        response = connection.getresponse()
        assert response.status == 500
        assert response.getheader("connection") is None
        response.read()
        assert connection.sock.recv(1) == b""


def test_a_part_of_unknown_type(engines: EnginesUnderTest) -> None:
    error_of(post(engines.union, chat({"type": "hologram", "hologram": 1}, max_tokens=1)), 400)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "qwenvl"}', "body.messages"),
        (b'{"model": "qwenvl", "messages": [{"role": "user", "content": "x"}], "max_tokens": "m"}', "body.max_tokens"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stop": ["1", "2", "3", "4", "5"]}', "body.stop"),
        (b"{nope", "body.1"),
        (b"[1]", "body"),
        (b"", "body"),
    ],
)
def test_bodies_that_do_not_validate(engines: EnginesUnderTest, body: bytes, param: str) -> None:
    response = httpx.post(engines.union + CHAT, content=body, headers={"Content-Type": "application/json"}, timeout=60)
    error = error_of(response, 400)
    assert (error["type"], error["param"]) == ("Bad Request", param)


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
def test_the_body_must_be_declared_as_json(engines: EnginesUnderTest, headers: dict[str, str]) -> None:
    response = httpx.post(engines.union + CHAT, content=b'{"messages": []}', headers=headers, timeout=60)
    assert error_of(response, 400)["type"] == "Bad Request"


def test_unknown_path_and_method(engines: EnginesUnderTest) -> None:
    unknown = httpx.get(f"{engines.union}/nowhere", timeout=60)
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    wrong = httpx.get(engines.union + CHAT, timeout=60)
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    assert wrong.headers["allow"] == "POST"


def test_an_error_before_the_stream_is_no_stream(engines: EnginesUnderTest) -> None:
    response = post(engines.union, {**chat(HELLO), "max_tokens": 0, "stream": True})
    error_of(response, 400)


def test_a_rank_that_does_not_exist(engines: EnginesUnderTest) -> None:
    response = httpx.post(
        engines.union + CHAT, json=chat(HELLO, max_tokens=1), headers={"X-data-parallel-rank": "3"}, timeout=60
    )
    assert error_of(response, 400)["type"] == "BadRequestError"


def test_embeddings_need_an_engine_that_takes_them(engines: EnginesUnderTest) -> None:
    part = {"type": "image_embeds", "image_embeds": {"image_grid_thw": [1, 6, 6]}, "uuid": "0" * 64}
    error = error_of(post(engines.union, chat(part, HELLO, max_tokens=1)), 400)
    assert (error["type"], error["param"]) == ("BadRequestError", "image_embeds")
    assert "--enable-mm-embeds" in error["message"]


def test_good_requests_go_on_after_all_that(engines: EnginesUnderTest) -> None:
    assert answer(post(engines.union, chat(HELLO, max_tokens=1)))["choices"]
    assert stream(engines.union, chat(HELLO, max_tokens=1)).events[-1] == "[DONE]"
