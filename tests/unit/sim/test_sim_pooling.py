"""Engines that pool: embeddings, scores and classes that depend on all of the prompt, and what is not served."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import openai
import pytest
from sim_legs import Engine, Engines, chat_body, image, text

NUMBERS = 64


@pytest.fixture(scope="module")
def embedder(engines: Engines) -> Engine:
    return engines.start("--runner", "pooling")


@pytest.fixture(scope="module")
def classifier(engines: Engines) -> Engine:
    return engines.start("--runner", "pooling", "--convert", "classify", "--hf-overrides", '{"num_labels": 3}')


@pytest.fixture(scope="module")
def ranker(engines: Engines) -> Engine:
    return engines.start("--runner", "pooling", "--convert", "classify", "--hf-overrides", '{"num_labels": 1}')


def vectors(engine: Engine, **fields: Any) -> list[list[float]]:
    response = engine.post("/v1/embeddings", {"model": "sim-model", **fields})
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json()["data"]]


def test_embeddings(embedder: Engine) -> None:
    reply = embedder.post("/v1/embeddings", {"input": ["one", "two"]}, headers={"X-Request-Id": "r"}).json()
    assert list(reply) == ["id", "object", "created", "model", "data", "usage"]
    assert (reply["id"], reply["object"], reply["model"]) == ("embd-r", "list", "sim-model")
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] == 6
    first, second = (item["embedding"] for item in reply["data"])
    assert len(first) == len(second) == NUMBERS
    assert first != second
    assert math.isclose(sum(value * value for value in first), 1)
    assert vectors(embedder, input="one") == [first]
    assert vectors(embedder, input=[list(b"one"), list(b"two")]) == [first, second]


def test_every_word_of_a_prompt_counts(embedder: Engine) -> None:
    texts = ["a long text" + "." * 200 + end for end in "abc"]
    assert len({tuple(vector) for vector in vectors(embedder, input=texts)}) == 3
    chats = [[{"role": role, "content": [image(seed), text("?")]}] for role, seed in (("user", 1), ("user", 2))]
    by_messages = [vectors(embedder, messages=chat)[0] for chat in chats]
    assert by_messages[0] != by_messages[1]
    assert vectors(embedder, input=chats) == by_messages
    assert vectors(embedder, input=chats) == by_messages, "the prefix cache changes nothing"


def test_base64_is_the_same_numbers(embedder: Engine) -> None:
    (plain,) = vectors(embedder, input="x")
    response = embedder.post("/v1/embeddings", {"input": "x", "encoding_format": "base64"}).json()
    data = base64.b64decode(response["data"][0]["embedding"])
    assert struct.unpack(f"<{NUMBERS}f", data) == pytest.approx(plain)
    with openai.OpenAI(base_url=f"{embedder.url}/v1", api_key="any", max_retries=0) as client:
        assert client.embeddings.create(model="sim-model", input="x").data[0].embedding == pytest.approx(plain)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_puts_the_likest_first(embedder: Engine, ranker: Engine, path: str) -> None:
    documents = ["something else", "the capital of France is Paris", "numbers 1 2 3"]
    body = {"query": "the capital of France", "documents": documents, "top_n": 2}
    for engine in (embedder, ranker):
        reply = engine.post(path, body).json()
        assert list(reply) == ["id", "model", "usage", "results"]
        assert reply["results"][0]["index"] == 1
        assert reply["results"][0]["document"] == {"text": documents[1], "multi_modal": None}
        assert len(reply["results"]) == 2


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("queries", "documents"), ("text_1", "text_2"), ("queries", "items")])
def test_score(embedder: Engine, path: str, names: tuple[str, str]) -> None:
    one, other = names
    reply = embedder.post(path, {one: "same", other: ["same", {"content": [image(1)]}]}).json()
    scores = [item["score"] for item in reply["data"]]
    assert scores[0] == pytest.approx(1)
    assert scores[1] < 1
    wrong = embedder.post(path, {one: ["a", "b"], other: ["c"]})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "BadRequestError")


def test_classify(classifier: Engine) -> None:
    reply = classifier.post("/classify", {"input": ["one", "two"]}).json()
    for item in reply["data"]:
        assert item["num_classes"] == len(item["probs"]) == 3
        assert sum(item["probs"]) == pytest.approx(1)
        assert item["label"] == f"LABEL_{item['probs'].index(max(item['probs']))}"
    pooled = classifier.post("/pooling", {"input": "one"}).json()["data"][0]
    assert pooled == {"index": 0, "object": "pooling", "data": reply["data"][0]["probs"]}


def test_what_a_model_does_not_do_is_not_there(engines: Engines, embedder: Engine, classifier: Engine) -> None:
    generating = engines.start()
    for path in ("/v1/embeddings", "/v1/rerank", "/rerank", "/score", "/classify", "/pooling"):
        response = generating.post(path, {"input": "x"})
        assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})
    for engine in (embedder, classifier):
        assert engine.post("/v1/chat/completions", chat_body("x")).status_code == 404
        assert engine.post("/v1/messages", {}).status_code == 404
        assert engine.post("/tokenize", {"prompt": "x"}).json()["count"] == 1
    assert embedder.post("/classify", {"input": "x"}).status_code == 404
    assert classifier.post("/v1/embeddings", {"input": "x"}).status_code == 404
    assert classifier.post("/score", {"queries": "a", "documents": "b"}).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "kind", "param"),
    [
        ({}, 400, "Bad Request", "body.input"),
        ({"input": 5}, 400, "Bad Request", "body.input"),
        ({"input": []}, 400, "BadRequestError", None),
        ({"input": "x", "normalize": True}, 400, "BadRequestError", "normalize"),
        ({"input": "x", "dimensions": 8}, 400, "BadRequestError", None),
        ({"input": "x", "model": "nobody"}, 404, "NotFoundError", None),
        ({"input": "x" * 40_000}, 400, "BadRequestError", "input_tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(embedder: Engine, fields: dict[str, Any], status: int, kind: str, param: str | None) -> None:
    response = embedder.post("/v1/embeddings", fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (status, kind, param)


def test_faults_and_truncation(embedder: Engine) -> None:
    embedder.fault("error:code=503,count=1,path=/v1/embeddings")
    assert embedder.post("/v1/embeddings", {"input": "x"}).status_code == 503
    assert vectors(embedder, input="abcdef", truncate_prompt_tokens=3) == vectors(embedder, input="abc")
