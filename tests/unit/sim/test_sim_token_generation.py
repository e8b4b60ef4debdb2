"""Token ids in, token ids out: the same answers as completions, through a pair and carried on in the middle too."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from sim_legs import REMOTE_DECODE, Engine, Engines, eventually, idle, nixl_flags

PATH = "/inference/v1/generate"


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Engine:
    return engines.start("--enable-scale-out")


def expected(engine: Engine, prompt: str, **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 20, "ignore_eos": True, "return_token_ids": True}
    choice: dict[str, Any] = engine.post("/v1/completions", {**body, **fields}).json()["choices"][0]
    return choice


def request(tokens: list[int], sampling: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    wanted = {"temperature": 0, "max_tokens": 20, "ignore_eos": True, **(sampling or {})}
    return {"token_ids": tokens, "sampling_params": wanted, **fields}


def test_whole_and_streamed_answers_are_those_of_completions(engine: Engine) -> None:
    right = expected(engine, "tokens in, tokens out")
    sent = request(right["prompt_token_ids"], request_id="abc", return_token_ids=True)
    whole = engine.post(PATH, sent).json()
    assert whole["request_id"] == "generate-tokens-abc"
    assert whole["prompt_token_ids"] == right["prompt_token_ids"]
    assert whole["choices"][0]["token_ids"] == right["token_ids"]
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 20
    options = {"stream": True, "stream_options": {"include_usage": True}, "output_mode": "text"}
    streamed = engine.post(PATH, {**sent, **options})
    assert streamed.text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert [token for choice in choices for token in choice["token_ids"]] == right["token_ids"]
    assert "".join(choice["text"] for choice in choices) == right["text"]
    assert [event.get("prompt_token_ids") for event in events[:2]] == [right["prompt_token_ids"], None]
    assert events[-1]["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("after", [1, 7, 19])
def test_an_answer_is_carried_on_from_its_token_ids(engine: Engine, after: int) -> None:
    right = expected(engine, "to be carried on")
    begun = right["prompt_token_ids"] + right["token_ids"][:after]
    rest = engine.post(PATH, request(begun, {"max_tokens": 20 - after})).json()
    assert rest["choices"][0]["token_ids"] == right["token_ids"][after:]


def test_through_prefill_and_decode(engine: Engine, engines: Engines) -> None:
    producer = engines.start("--tokens-only", *nixl_flags("kv_producer"))
    consumer = engines.start("--enable-scale-out", *nixl_flags("kv_consumer"))
    right = expected(engine, "through a pair")
    tokens = right["prompt_token_ids"]
    first = producer.post(PATH, request(tokens, {"max_tokens": 1}, kv_transfer_params=REMOTE_DECODE)).json()
    second = consumer.post(PATH, request(tokens, kv_transfer_params=first["kv_transfer_params"])).json()
    assert second["choices"][0]["token_ids"] == right["token_ids"]
    other = [random.randrange(97, 123) for _ in tokens]
    first = producer.post(PATH, request(other, {"max_tokens": 1}, kv_transfer_params=REMOTE_DECODE)).json()
    mixed = consumer.post(PATH, request(tokens, kv_transfer_params=first["kv_transfer_params"])).json()
    assert mixed["choices"][0]["token_ids"] != right["token_ids"]


def test_max_tokens_is_what_fits_unless_it_is_said(engines: Engines) -> None:
    small = engines.start("--enable-scale-out", "--max-model-len", "64")
    reply = small.post(PATH, {"token_ids": [97] * 24, "sampling_params": {"temperature": 0, "ignore_eos": True}}).json()
    assert len(reply["choices"][0]["token_ids"]) == 40


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"token_ids": []}, 400),
        ({"token_ids": [97]}, 400),
        ({"token_ids": [-1], "sampling_params": {}}, 400),
        ({"token_ids": [97], "sampling_params": {"temperature": -1}}, 400),
        ({"token_ids": [97], "sampling_params": {}, "content_parts": [{}]}, 400),
        ({"token_ids": [97], "sampling_params": {}, "model": "nope"}, 404),
    ],
    ids=str,
)
def test_refusals(engine: Engine, body: dict[str, Any], status: int) -> None:
    assert engine.post(PATH, body).status_code == status
    eventually(lambda: idle(engine))


def test_it_is_closed_unless_asked_for(engines: Engines) -> None:
    reply = engines.start().post(PATH, request([97]))
    assert reply.status_code == 403
    assert reply.json()["error"]["type"] == "PermissionDeniedError"
