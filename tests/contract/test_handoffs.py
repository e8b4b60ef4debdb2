"""Embeddings and KV cache from stage to stage: what works, what is refused, and what goes wrong in silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine_legs import (
    CHAT,
    COMPLETIONS,
    JSON,
    PREFILL_FOR_SOMEBODY,
    answer,
    chat,
    encode,
    image,
    post,
    prefill,
    stream,
    text,
    through_all_stages,
    token_ids,
)
from engines_under_test import MODEL, EnginesUnderTest, metric, one_more_decode

QUESTION = text("What is in the picture?")
TOKENS = 12
EXTERNAL_HITS = "vllm:external_prefix_cache_hits_total"


def plain(engines: EnginesUnderTest, *parts: JSON, **fields: Any) -> JSON:
    """The reference: the same question to one engine that does it all."""
    return answer(post(engines.union, chat(*parts, **fields)))


# Encode


def test_encode_answers_with_identifier_and_metadata(engines: EnginesUnderTest) -> None:
    reply = answer(post(engines.encode, chat(image(1, 96, 64), max_tokens=1)))
    ((identifier, item),) = reply["ec_transfer_params"].items()
    assert len(identifier) == 64
    assert set(identifier) <= set("0123456789abcdef")
    assert item == {"item_indices": [0], "metadata": {"image_grid_thw": [1, 4, 6]}}
    (choice,) = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert reply["usage"]["completion_tokens"] == 0


def test_an_item_has_one_identifier_wherever_it_stands(engines: EnginesUnderTest) -> None:
    again = [encode(engines, image(1)) for _ in range(3)]
    assert again[0] == again[1] == again[2]
    three = chat(image(1), image(2), image(1), QUESTION, max_tokens=1)
    items = answer(post(engines.encode, three))["ec_transfer_params"]
    assert {tuple(item["item_indices"]) for item in items.values()} == {(0, 2), (1,)}
    assert items[again[0]["uuid"]]["item_indices"] == [0, 2]


def test_a_uuid_of_the_sender_is_the_identifier(engines: EnginesUnderTest) -> None:
    """Why a gateway must not pass a client's uuid on."""
    part = {**image(3), "uuid": "chosen-by-a-client"}
    assert list(answer(post(engines.encode, chat(part, max_tokens=1)))["ec_transfer_params"]) == ["chosen-by-a-client"]


def test_encode_has_nothing_to_hand_over_for_text(engines: EnginesUnderTest) -> None:
    reply = answer(post(engines.encode, chat(QUESTION, max_tokens=1)))
    assert reply["ec_transfer_params"] is None
    assert reply["usage"]["completion_tokens"] == 0


# Prefill


def test_prefill_answers_with_what_decode_needs(engines: EnginesUnderTest) -> None:
    body = chat(encode(engines, image(1)), QUESTION, max_tokens=TOKENS)
    params = prefill(engines, body, request_id="pair-1")
    assert params["do_remote_prefill"] is True
    assert params["do_remote_decode"] is False
    assert params["remote_request_id"].startswith("chatcmpl-pair-1")
    assert params["remote_num_tokens"] == plain(engines, image(1), QUESTION, max_tokens=1)["usage"]["prompt_tokens"]
    assert params["transfer_mode"] == "pull"
    for field in ("remote_engine_id", "remote_host", "remote_port", "remote_block_ids", "tp_size"):
        assert params[field]
    blocks = -(-params["remote_num_tokens"] // 128)
    assert [len(group) for group in params["remote_block_ids"]] == [blocks]


def test_an_ordinary_request_to_prefill_hands_nothing_over(engines: EnginesUnderTest) -> None:
    assert answer(post(engines.prefill, chat(QUESTION, max_tokens=3)))["kv_transfer_params"] is None


def test_prefill_streams_no_parameters(engines: EnginesUnderTest) -> None:
    body = chat(QUESTION, max_tokens=1, min_tokens=1, kv_transfer_params=PREFILL_FOR_SOMEBODY)
    assert all("kv_transfer_params" not in event for event in stream(engines.prefill, body).events)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a", "e", "i", "o"]},
        {"logprobs": True, "top_logprobs": 2},
        {"ignore_eos": True},
        {"return_token_ids": True},
        {"seed": 7},
        {"frequency_penalty": 0.5},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_a_client_may_ask_does_not_spoil_prefills_leg(engines: EnginesUnderTest, fields: JSON) -> None:
    leg = chat(QUESTION, max_tokens=1, min_tokens=1, kv_transfer_params=PREFILL_FOR_SOMEBODY, **fields)
    reply = answer(post(engines.prefill, leg))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["kv_transfer_params"]["remote_block_ids"]


# The whole chain

CHAINS = [
    pytest.param((QUESTION,), id="text"),
    pytest.param((image(1), QUESTION), id="one image"),
    pytest.param((QUESTION, image(1, 64, 128), image(2), text("Compare.")), id="two images"),
    pytest.param((image(1), image(2, 160, 96), image(1), QUESTION), id="three images, two equal"),
    pytest.param((image(4), text("What is in the picture? " * 40)), id="several blocks"),
]


@pytest.mark.parametrize("parts", CHAINS)
def test_all_stages_answer_as_one_engine_does(engines: EnginesUnderTest, parts: tuple[JSON, ...]) -> None:
    reference = plain(engines, *parts, max_tokens=TOKENS, return_token_ids=True)
    before = metric(engines.decode, EXTERNAL_HITS)
    reply = through_all_stages(engines, parts, max_tokens=TOKENS, return_token_ids=True)
    assert token_ids(reply) == token_ids(reference)
    assert reply["prompt_token_ids"] == reference["prompt_token_ids"]
    assert reply["choices"][0]["finish_reason"] == reference["choices"][0]["finish_reason"]
    assert reply["usage"] == reference["usage"]
    assert metric(engines.decode, EXTERNAL_HITS) - before == reference["usage"]["prompt_tokens"]


def test_decode_says_nothing_of_the_handoff(engines: EnginesUnderTest) -> None:
    reply = through_all_stages(engines, (image(1), QUESTION), max_tokens=2)
    assert reply["kv_transfer_params"] is None
    assert reply["ec_transfer_params"] is None


def test_all_stages_streamed(engines: EnginesUnderTest) -> None:
    body = chat(encode(engines, image(5)), QUESTION, max_tokens=TOKENS, return_token_ids=True)
    events = stream(engines.decode, {**body, "kv_transfer_params": prefill(engines, body)}).objects
    reference = plain(engines, image(5), QUESTION, max_tokens=TOKENS, return_token_ids=True)
    assert [token for event in events[1:] for token in event["choices"][0]["token_ids"]] == token_ids(reference)


def test_prefill_may_get_the_media_too(engines: EnginesUnderTest) -> None:
    """`forward_media: prefill`: a lost embedding is made again."""
    raw = chat(image(6), QUESTION, max_tokens=TOKENS, return_token_ids=True)
    handed = chat(encode(engines, image(6)), QUESTION, max_tokens=TOKENS, return_token_ids=True)
    reply = answer(post(engines.decode, {**handed, "kv_transfer_params": prefill(engines, raw)}))
    assert token_ids(reply) == token_ids(answer(post(engines.union, raw)))


def test_prefill_encodes_media_that_nobody_encoded(engines: EnginesUnderTest) -> None:
    raw = chat(image(7), QUESTION, max_tokens=TOKENS, return_token_ids=True)
    reply = answer(post(engines.decode, {**raw, "kv_transfer_params": prefill(engines, raw)}))
    assert token_ids(reply) == token_ids(answer(post(engines.union, raw)))


def test_completions_through_prefill_and_decode(engines: EnginesUnderTest) -> None:
    body = {"model": MODEL, "prompt": "Tell me. " * 30, "max_tokens": TOKENS, "temperature": 0}
    params = prefill(engines, body, COMPLETIONS, request_id="pair-2")
    assert params["remote_request_id"].startswith("cmpl-pair-2-0")
    (choice,) = answer(post(engines.decode, {**body, "kv_transfer_params": params}, COMPLETIONS))["choices"]
    assert choice["text"] == answer(post(engines.union, body, COMPLETIONS))["choices"][0]["text"]


def test_many_at_once(engines: EnginesUnderTest) -> None:
    """The handoffs of requests that overlap are kept apart."""
    questions = [(image(number % 3), text(f"Question number {number}?")) for number in range(8)]
    replies: dict[int, JSON] = {}

    def ask(number: int) -> None:
        replies[number] = through_all_stages(engines, questions[number], max_tokens=6, return_token_ids=True)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, parts in enumerate(questions):
        reference = plain(engines, *parts, max_tokens=6, return_token_ids=True)
        assert token_ids(replies[number]) == token_ids(reference), f"question {number}"


# Bad handoffs


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_media_and_embeddings_of_one_kind_do_not_mix(engines: EnginesUnderTest, stage: str) -> None:
    body = chat(encode(engines, image(1)), image(2), QUESTION, max_tokens=1)
    response = post(getattr(engines, stage), body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "image_embeds"


def test_metadata_must_be_as_encode_gave_it(engines: EnginesUnderTest) -> None:
    part = encode(engines, image(1))
    nested = {**part, "image_embeds": {"image_grid_thw": [part["image_embeds"]["image_grid_thw"]]}}
    assert post(engines.prefill, chat(nested, QUESTION, max_tokens=1)).status_code == 400


def from_a_dead_prefill(params: JSON) -> JSON:
    return {**params, "remote_engine_id": "gone", "remote_port": 1, "remote_request_id": "chatcmpl-gone-00000000"}


def test_a_dead_prefill_is_an_internal_error(engines: EnginesUnderTest) -> None:
    body = chat(encode(engines, image(1)), QUESTION, max_tokens=4)
    params = from_a_dead_prefill(prefill(engines, body))
    response = post(engines.decode, {**body, "kv_transfer_params": params})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "InternalServerError"
    assert httpx.get(f"{engines.decode}/health", timeout=60).status_code == 200


def test_a_dead_prefill_in_a_stream_comes_after_200_and_a_role(engines: EnginesUnderTest) -> None:
    """Why a gateway must not answer its client before content has come."""
    body = chat(encode(engines, image(1)), QUESTION, max_tokens=4)
    params = from_a_dead_prefill(prefill(engines, body))
    streamed = stream(engines.decode, {**body, "kv_transfer_params": params})
    assert streamed.status == 200
    role, error = streamed.objects
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert error == {
        "error": {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}
    }
    assert streamed.events[-1] == "[DONE]"


def test_blocks_that_prefill_does_not_have(engines: EnginesUnderTest) -> None:
    body = chat(QUESTION, max_tokens=4)
    params = {**prefill(engines, body), "remote_block_ids": [[99_999_999]]}
    assert post(engines.decode, {**body, "kv_transfer_params": params}).status_code == 500
    assert httpx.get(f"{engines.decode}/health", timeout=60).status_code == 200


def test_an_unknown_request_id_is_not_noticed(engines: EnginesUnderTest) -> None:
    """Decode reads the blocks that it is told; nothing protects them from another reader."""
    body = chat(QUESTION, max_tokens=4)
    params = prefill(engines, body)
    forged = {**params, "remote_request_id": "chatcmpl-somebody-else-00000000"}
    reply = answer(post(engines.decode, {**body, "kv_transfer_params": forged}))
    assert reply["choices"][0]["message"] == plain(engines, QUESTION, max_tokens=4)["choices"][0]["message"]


def test_swapped_handoffs_answer_wrongly_with_200(engines: EnginesUnderTest) -> None:
    """The KV of another prompt of the same length: no engine notices, so no gateway may ever mix them up."""
    first, second = (chat(text(f"{word} " * 40), max_tokens=8, return_token_ids=True) for word in ("ping", "pong"))
    params = prefill(engines, second)
    reply = answer(post(engines.decode, {**first, "kv_transfer_params": params}))
    assert token_ids(reply) != token_ids(answer(post(engines.union, first)))


def test_several_prompts_are_handed_over_for_the_first_only(engines: EnginesUnderTest) -> None:
    prompts = ["hello you there " * 3, "bye then, bye then. " * 2]
    body = {"model": MODEL, "prompt": prompts, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    params = prefill(engines, body, COMPLETIONS, request_id="pair-3")
    assert params["remote_request_id"].startswith("cmpl-pair-3-0")
    handed = answer(post(engines.decode, {**body, "kv_transfer_params": params}, COMPLETIONS))["choices"]
    reference = answer(post(engines.union, body, COMPLETIONS))["choices"]
    assert handed[0]["token_ids"] == reference[0]["token_ids"]
    assert handed[1]["token_ids"] != reference[1]["token_ids"]


@pytest.fixture(scope="module")
def mortal_decode(engines: EnginesUnderTest) -> Iterator[str]:
    """A decode engine that may die."""
    with one_more_decode(engines) as url:
        yield url


def test_an_embedding_that_nobody_made_kills_the_engine(engines: EnginesUnderTest, mortal_decode: str) -> None:
    """Why no client may ever send metadata, and a gateway only of what it has just been told."""
    part = {"type": "image_embeds", "image_embeds": {"image_grid_thw": [1, 6, 6]}, "uuid": "0" * 64}
    response = post(mortal_decode, chat(part, QUESTION, max_tokens=2))
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "InternalServerError"
    try:
        assert httpx.get(f"{mortal_decode}/health", timeout=30).status_code == 503
        assert post(mortal_decode, chat(QUESTION, max_tokens=1)).status_code == 500
    except httpx.TransportError:
        pass  # it has ended already
    assert httpx.post(engines.decode + CHAT, json=chat(QUESTION, max_tokens=1), timeout=60).status_code == 200
