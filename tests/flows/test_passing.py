"""Paths that one endpoint answers: embeddings, scores, classes, tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import plain_http
import pytest
from fleet_under_test import MODEL, PLAIN, Engines, Gateway, Role
from images import image_part
from openai import OpenAI

CHAT = [{"role": "user", "content": [image_part(1), {"type": "text", "text": "What is it?"}]}]
PAIR = {"queries": "a question", "documents": ["one", "another", "a third one"]}
RANKED = {"query": "a question", "documents": ["one", "another", "a third one"], "top_n": 2}
TASKS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "embed": [
        ("/v1/embeddings", {"input": ["one", "another"]}),
        ("/v1/embeddings", {"messages": CHAT, "encoding_format": "base64"}),
        ("/pooling", {"input": "one"}),
        *((path, PAIR) for path in ("/score", "/v1/score")),
        *((path, RANKED) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    ],
    "classify": [("/classify", {"input": ["one", "another"]})],
}
TOKENS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"prompt": "one and another"}),
    ("/tokenize", {"messages": CHAT}),
    ("/detokenize", {"tokens": [72, 105]}),
]
_VARYING = re.compile(r'"(id|created)":("[^"]*"|[0-9.]+)')


def told(url: str, path: str, body: dict[str, Any]) -> tuple[int, object]:
    """Status and body but for ids and times."""
    reply = plain_http.post(url + path, json=body, timeout=60)
    return reply.status_code, json.loads(_VARYING.sub(r'"\1":0', reply.text))


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Engines, Gateway]]]:
    """For each task two engines and a Gateway."""
    with ExitStack() as opened:
        found = {}
        for task in TASKS:
            flags = ("--runner", "pooling", "--convert", task)
            running = opened.enter_context(Engines(tmp_path_factory.mktemp(task), {Role.UNION: 2}, flags=flags))
            found[task] = (running, opened.enter_context(Gateway(running)))
        yield found


@pytest.mark.parametrize("task", TASKS)
def test_an_engine_that_pools(pooling: dict[str, tuple[Engines, Gateway]], task: str) -> None:
    engines, gateway = pooling[task]
    for path, body in TASKS[task]:
        expected = told(engines[PLAIN].url, path, {"model": MODEL, **body})
        assert expected[0] == 200, expected
        assert told(gateway.url, path, {"model": MODEL, **body}) == expected
    gateway.wait_until_idle()


def test_both_engines_are_asked_and_one_that_fails_is_replaced(pooling: dict[str, tuple[Engines, Gateway]]) -> None:
    engines, gateway = pooling["embed"]

    def asked() -> set[str]:
        timings = [
            plain_http.post(f"{gateway.url}/v1/embeddings", json={"model": MODEL, "input": "x"}, timeout=60)
            for _ in range(6)
        ]
        assert {reply.status_code for reply in timings} == {200}
        return {reply.headers["server-timing"].split('"')[1] for reply in timings}

    assert asked() == {"union-0", "union-1"}
    try:
        engines["union-0"].fail("error:code=500")
        assert asked() == {"union-1"}
    finally:
        engines.restore()
    gateway.wait_until_idle()


def test_the_sdk(pooling: dict[str, tuple[Engines, Gateway]]) -> None:
    client = OpenAI(base_url=f"{pooling['embed'][1].url}/v1", api_key="unused", max_retries=0, timeout=60)
    found = client.embeddings.create(model=MODEL, input=["one", "another"])
    assert [len(item.embedding) for item in found.data] == [len(found.data[0].embedding)] * 2
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nobody-has-this", input="one")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize(("path", "body"), TOKENS)
def test_tokens_are_those_of_one_engine(engines: Engines, gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    for named in ({"model": MODEL, **body}, body):
        expected = told(engines[PLAIN].url, path, named)
        assert expected[0] == 200
        assert told(gateway.url, path, named) == expected
    gateway.wait_until_idle()


def test_an_engine_without_the_path_says_so(gateway: Gateway) -> None:
    assert told(gateway.url, "/v1/embeddings", {"model": MODEL, "input": "x"}) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(("path", "body", "param"), [
    ("/tokenize", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
     "messages"),
    ("/tokenize", {"messages": [{"role": "user", "content": [{**image_part(1), "uuid": "x"}]}]}, "uuid"),
    ("/score", {"queries": {"content": [{"type": "image_embeds", "image_embeds": "x"}]}, "documents": ["x"]},
     "image_embeds"),
    ("/rerank", {"query": "x", "documents": [{"content": [{**image_part(1), "uuid": "x"}]}]}, "uuid"),
    ("/pooling", {"input": "x", "request_id": "x"}, "request_id"),
])  # fmt: skip
def test_what_no_client_may_send(gateway: Gateway, path: str, body: dict[str, Any], param: str) -> None:
    status, answer = told(gateway.url, path, {"model": MODEL, **body})
    assert isinstance(answer, dict)
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", [
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses",
    "/v1/embeddings", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/pooling", "/classify",
    "/tokenize", "/detokenize",
])  # fmt: skip
def test_every_path_takes_posts_alone(gateway: Gateway, path: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        reply = plain_http.request(method, gateway.url + path, timeout=60)
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
        if method != "HEAD":
            assert "POST" in reply.json()["error"]["message"]
            assert (reply.json().get("type") == "error") == path.startswith("/v1/messages")


def test_unknown_paths_have_openais_form(gateway: Gateway) -> None:
    for path in ("/v1/nothing", "/", "/v1/messages/batches", "/v1/responses/", "/v1/responses/a/b"):
        reply = plain_http.post(gateway.url + path, json={}, timeout=60)
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "not_found"
