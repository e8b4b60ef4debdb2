"""Good requests and the shape of their answers."""

from __future__ import annotations

import httpx
import pytest

from engine_legs import COMPLETIONS, answer, chat, image, post, text, token_ids
from engines_under_test import MAX_MODEL_LEN, MODEL, EnginesUnderTest

QUESTION = text("What is in the picture?")


def test_health_has_no_body(engines: EnginesUnderTest) -> None:
    for url in (engines.encode, engines.prefill, engines.decode, engines.union):
        response = httpx.get(f"{url}/health", timeout=60)
        assert (response.status_code, response.content) == (200, b"")


def test_ping_is_health_by_another_name(engines: EnginesUnderTest) -> None:
    assert httpx.get(f"{engines.union}/ping", timeout=60).status_code == 200


def test_version(engines: EnginesUnderTest) -> None:
    assert httpx.get(f"{engines.union}/version", timeout=60).json()["version"].count(".") >= 2


def test_models(engines: EnginesUnderTest) -> None:
    listed = httpx.get(f"{engines.union}/v1/models", timeout=60).json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert model["id"] == MODEL
    assert model["object"] == "model"
    assert model["owned_by"] == "vllm"
    assert model["max_model_len"] == MAX_MODEL_LEN
    assert model["root"].endswith("tiny-qwen3-vl")
    assert model["parent"] is None


def test_chat_answer(engines: EnginesUnderTest) -> None:
    reply = answer(post(engines.union, chat(QUESTION, max_tokens=5, ignore_eos=True)))
    assert reply["object"] == "chat.completion"
    assert reply["model"] == MODEL
    assert isinstance(reply["created"], int)
    (choice,) = reply["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] == "length"
    assert choice["stop_reason"] is None
    assert choice["logprobs"] is None
    assert reply["usage"]["completion_tokens"] == 5
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + 5
    assert reply["kv_transfer_params"] is None
    assert reply["ec_transfer_params"] is None


def test_completion_answer(engines: EnginesUnderTest) -> None:
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    reply = answer(post(engines.union, body, COMPLETIONS))
    assert reply["object"] == "text_completion"
    (choice,) = reply["choices"]
    assert isinstance(choice["text"], str)
    assert choice["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 4


def test_several_prompts_are_several_choices(engines: EnginesUnderTest) -> None:
    body = {"model": MODEL, "prompt": ["one", "another"], "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    reply = answer(post(engines.union, body, COMPLETIONS))
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["usage"]["completion_tokens"] == 6


def test_a_prompt_of_token_ids_is_that_prompt(engines: EnginesUnderTest) -> None:
    body = {"model": MODEL, "prompt": "hello there", "max_tokens": 6, "temperature": 0, "return_token_ids": True}
    (by_text,) = answer(post(engines.union, body, COMPLETIONS))["choices"]
    ids = by_text["prompt_token_ids"]
    (by_ids,) = answer(post(engines.union, {**body, "prompt": ids}, COMPLETIONS))["choices"]
    assert by_ids["token_ids"] == by_text["token_ids"]
    assert by_ids["text"] == by_text["text"]


def test_token_ids_of_a_chat(engines: EnginesUnderTest) -> None:
    reply = answer(post(engines.union, chat(QUESTION, max_tokens=5, ignore_eos=True, return_token_ids=True)))
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]
    assert len(token_ids(reply)) == 5
    assert all(isinstance(token, int) for token in [*reply["prompt_token_ids"], *token_ids(reply)])


def test_token_ids_are_null_unless_asked_for(engines: EnginesUnderTest) -> None:
    reply = answer(post(engines.union, chat(QUESTION, max_tokens=2)))
    assert reply["prompt_token_ids"] is None
    assert reply["choices"][0]["token_ids"] is None


def test_greedy_answers_are_the_same_each_time(engines: EnginesUnderTest) -> None:
    body = chat(image(1), QUESTION, max_tokens=12, return_token_ids=True)
    assert token_ids(answer(post(engines.union, body))) == token_ids(answer(post(engines.union, body)))


def test_different_images_get_different_answers(engines: EnginesUnderTest) -> None:
    bodies = [chat(image(seed), QUESTION, max_tokens=12, return_token_ids=True) for seed in range(5)]
    assert len({tuple(token_ids(answer(post(engines.union, body)))) for body in bodies}) == len(bodies)


def test_the_order_of_images_matters(engines: EnginesUnderTest) -> None:
    one, other = image(1), image(2)
    bodies = [chat(*parts, max_tokens=12, return_token_ids=True) for parts in ((one, other), (other, one))]
    first, second = (token_ids(answer(post(engines.union, body))) for body in bodies)
    assert first != second


def test_larger_images_are_more_tokens(engines: EnginesUnderTest) -> None:
    small, large = (
        answer(post(engines.union, chat(image(1, side, side), QUESTION, max_tokens=1)))["usage"]["prompt_tokens"]
        for side in (64, 256)
    )
    assert large > small


def test_max_completion_tokens_wins_over_max_tokens(engines: EnginesUnderTest) -> None:
    body = chat(QUESTION, max_tokens=2, max_completion_tokens=7, ignore_eos=True)
    assert answer(post(engines.union, body))["usage"]["completion_tokens"] == 7


def test_a_stop_string_ends_the_answer_before_it(engines: EnginesUnderTest) -> None:
    whole = answer(post(engines.union, chat(QUESTION, max_tokens=8, ignore_eos=True)))
    content = whole["choices"][0]["message"]["content"]
    stop = content[3:5]
    (choice,) = answer(post(engines.union, chat(QUESTION, max_tokens=8, ignore_eos=True, stop=[stop])))["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == stop
    assert choice["message"]["content"] == content[: content.index(stop)]


def test_several_samples(engines: EnginesUnderTest) -> None:
    body = {**chat(QUESTION, max_tokens=2, n=2, seed=1, ignore_eos=True), "temperature": 1.0}
    reply = answer(post(engines.union, body))
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["usage"]["completion_tokens"] == 4


def test_the_model_may_be_left_out(engines: EnginesUnderTest) -> None:
    body = chat(QUESTION, max_tokens=1)
    del body["model"]
    assert answer(post(engines.union, body))["model"] == MODEL


def test_unknown_fields_are_passed_over(engines: EnginesUnderTest) -> None:
    assert answer(post(engines.union, chat(QUESTION, max_tokens=1, frobnicate=1)))["choices"]


def test_tokenize_counts_what_usage_counts(engines: EnginesUnderTest) -> None:
    body = chat(image(1), QUESTION, max_tokens=1)
    reply = httpx.post(
        f"{engines.union}/tokenize", json={"model": MODEL, "messages": body["messages"]}, timeout=60
    ).json()
    assert reply["count"] == len(reply["tokens"])
    assert reply["count"] == answer(post(engines.union, body))["usage"]["prompt_tokens"]
    assert reply["max_model_len"] == MAX_MODEL_LEN


def test_detokenize_undoes_tokenize(engines: EnginesUnderTest) -> None:
    tokens = httpx.post(f"{engines.union}/tokenize", json={"model": MODEL, "prompt": "héllo"}, timeout=60).json()[
        "tokens"
    ]
    reply = httpx.post(f"{engines.union}/detokenize", json={"model": MODEL, "tokens": tokens}, timeout=60).json()
    assert reply == {"prompt": "héllo"}


@pytest.mark.parametrize(("path", "prefix"), [("/v1/chat/completions", "chatcmpl-"), (COMPLETIONS, "cmpl-")])
def test_the_request_id_becomes_the_answers_id(engines: EnginesUnderTest, path: str, prefix: str) -> None:
    body = chat(QUESTION, max_tokens=1) if path != COMPLETIONS else {"model": MODEL, "prompt": "x", "max_tokens": 1}
    response = post(engines.union, body, path, request_id="abc-123")
    assert answer(response)["id"] == f"{prefix}abc-123"
    assert response.headers["x-request-id"] == "abc-123"


def test_without_a_request_id_each_answer_has_its_own(engines: EnginesUnderTest) -> None:
    responses = [post(engines.union, chat(QUESTION, max_tokens=1)) for _ in range(2)]
    ids = {answer(response)["id"] for response in responses}
    assert len(ids) == 2
    assert all(name.startswith("chatcmpl-") for name in ids)
    assert all(response.headers["x-request-id"] for response in responses)


def test_a_request_id_in_the_body_counts_less_than_the_header(engines: EnginesUnderTest) -> None:
    body = chat(QUESTION, max_tokens=1, request_id="in-body")
    assert answer(post(engines.union, body))["id"] == "chatcmpl-in-body"
    assert answer(post(engines.union, body, request_id="in-header"))["id"] == "chatcmpl-in-header"
