"""Endpoints that generate nothing: tokens, and the ones that only an engine for pooling has."""

from __future__ import annotations

import httpx
import pytest

from engine_legs import JSON, post, text
from engines_under_test import MAX_MODEL_LEN, MODEL, EnginesUnderTest


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/embeddings", "/v2/embed", "/pooling", "/classify"),
        *("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"),
    ],
)
def test_an_engine_that_generates_does_not_pool(engines: EnginesUnderTest, path: str) -> None:
    response = post(engines.union, {"model": MODEL, "input": "x", "query": "x", "documents": ["x"]}, path)
    assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})


def test_a_path_below_responses_that_there_is_not(engines: EnginesUnderTest) -> None:
    assert httpx.get(f"{engines.union}/v1/responses/a/b", timeout=60).json() == {"detail": "Not Found"}
    wrong = httpx.post(f"{engines.union}/v1/responses/a", json={}, timeout=60)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")


def test_tokenize(engines: EnginesUnderTest) -> None:
    reply = post(engines.union, {"model": MODEL, "prompt": "hello", "return_token_strs": True}, "/tokenize").json()
    assert list(reply) == ["count", "max_model_len", "tokens", "token_strs"]
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == MAX_MODEL_LEN
    assert post(engines.union, {"prompt": "hello"}, "/tokenize").json()["token_strs"] is None


def test_a_chat_without_the_assistants_turn_is_shorter(engines: EnginesUnderTest) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    whole = post(engines.union, body, "/tokenize").json()["tokens"]
    bare = post(engines.union, {**body, "add_generation_prompt": False}, "/tokenize").json()["tokens"]
    assert whole[: len(bare)] == bare
    assert len(bare) < len(whole)


def test_more_is_counted_than_the_model_can_read(engines: EnginesUnderTest) -> None:
    words = "many words " * MAX_MODEL_LEN
    for body in ({"prompt": words}, {"messages": [{"role": "user", "content": words}]}):
        assert post(engines.union, body, "/tokenize").json()["count"] > MAX_MODEL_LEN


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        ("/tokenize", {}, 400, "Bad Request", "body.prompt"),
        ("/tokenize", {"prompt": "x", "model": "nobody"}, 404, "NotFoundError", "model"),
        ("/detokenize", {}, 400, "Bad Request", "body.tokens"),
        ("/detokenize", {"tokens": ["x"]}, 400, "Bad Request", "body.tokens.0"),
        ("/detokenize", {"tokens": [-1]}, 400, "Bad Request", "body.tokens.0"),
        ("/detokenize", {"tokens": [1], "model": "nobody"}, 404, "NotFoundError", "model"),
        (
            "/tokenize",
            {"messages": [text("x")], "add_generation_prompt": True, "continue_final_message": True},
            *(400, "BadRequestError", None),
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(engines: EnginesUnderTest, path: str, body: JSON, status: int, kind: str, param: str | None) -> None:
    response = post(engines.union, body, path)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == (kind, param)
