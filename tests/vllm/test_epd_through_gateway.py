"""Real vLLM behind the Coordinator: encode, prefill and decode answer what one plain engine answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from gateway_before_engines import GatewayBeforeEngines, running_gateway

from engine_legs import JSON, answer, chat, image, post, stream, text, token_ids
from engines_under_test import EnginesUnderTest, metric
from pymotor.fleet import Role

pytestmark = pytest.mark.vllm

TOKENS = 16
PROMPTS = 20
AT_ONCE = 4
SIZES = [(96, 96), (64, 128), (160, 96), (96, 192), (128, 128), (224, 64)]
WORDS = ["What is shown?", "Compare.", "Describe it in a sentence, please.", "Which one is brighter? " * 9]


@dataclass(frozen=True)
class Question:
    """A request with 0 to 3 images and what the plain engine answers to it."""

    body: JSON
    images: tuple[JSON, ...]
    reference: JSON


def images_of(number: int) -> tuple[JSON, ...]:
    """`number % 4` different images of different sizes; each image occurs in several questions."""
    seeds = [(number + offset) % len(SIZES) for offset in range(number % 4)]
    return tuple(image(seed, *SIZES[seed]) for seed in seeds)


@pytest.fixture(scope="module")
def questions(vllm_engines: EnginesUnderTest) -> list[Question]:
    """The prompts, no two alike, with their reference answers."""
    asked = []
    for number in range(PROMPTS):
        images = images_of(number)
        words = text(f"Question {number}: {WORDS[number % len(WORDS)]}")
        parts = (words, *images) if number % 3 else (*images, words)
        body = chat(*parts, max_tokens=TOKENS, return_token_ids=True)
        asked.append(Question(body, images, answer(post(vllm_engines.union, body))))
    return asked


@pytest.fixture(scope="module", params=["prefill", "never"])
def forward_media(request: pytest.FixtureRequest) -> str:
    """Who gets media besides encode."""
    choice: str = request.param
    return choice


@pytest.fixture(scope="module")
def gateway(
    vllm_engines: EnginesUnderTest, forward_media: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayBeforeEngines]:
    config: dict[str, Any] = {"encode_config": {"forward_media": forward_media}}
    with running_gateway(vllm_engines, tmp_path_factory.mktemp("gateway"), config) as gateway:
        yield gateway


def in_parallel(ask: Any, questions: list[Question]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(ask, questions))


def tokens_not_computed(engines: EnginesUnderTest) -> float:
    """Prompt tokens that decode got from prefill or had from it before."""
    names = ("vllm:external_prefix_cache_hits_total", "vllm:prefix_cache_hits_total")
    return sum(metric(engines.decode, name) for name in names)


def test_token_ids_equal_those_of_one_engine(
    gateway: GatewayBeforeEngines, vllm_engines: EnginesUnderTest, questions: list[Question]
) -> None:
    before = tokens_not_computed(vllm_engines)
    responses = in_parallel(lambda question: post(gateway.url, question.body), questions)
    encoded: set[str] = set()
    for question, response in zip(questions, responses, strict=True):
        reply = answer(response)
        assert token_ids(reply) == token_ids(question.reference)
        assert reply["prompt_token_ids"] == question.reference["prompt_token_ids"]
        assert reply["choices"][0]["message"] == question.reference["choices"][0]["message"]
        assert reply["usage"] == question.reference["usage"]
        timing = response.headers["server-timing"]
        legs = {leg for leg in ("encode", "prefill", "decode") if leg in timing}
        assert legs - {"encode"} == {"prefill", "decode"}, timing
        assert question.images or "encode" not in legs, timing
        encoded |= {leg for leg in legs if leg == "encode"}
    assert encoded, "images that are in the store need no encoder, but somebody's were not"
    prompt_tokens = sum(question.reference["usage"]["prompt_tokens"] for question in questions)
    assert tokens_not_computed(vllm_engines) - before >= prompt_tokens


def test_streams_have_the_same_token_ids(
    gateway: GatewayBeforeEngines, vllm_engines: EnginesUnderTest, questions: list[Question]
) -> None:
    before = tokens_not_computed(vllm_engines)
    streams = in_parallel(lambda question: stream(gateway.url, question.body), questions)
    for question, streamed in zip(questions, streams, strict=True):
        assert streamed.status == 200
        assert streamed.events[-1] == "[DONE]"
        role, *deltas = streamed.objects
        assert role["choices"][0]["delta"]["role"] == "assistant"
        ids = [token for event in deltas for token in event["choices"][0]["token_ids"]]
        assert ids == token_ids(question.reference)
        assert deltas[-1]["choices"][0]["finish_reason"] == question.reference["choices"][0]["finish_reason"]
    prompt_tokens = sum(question.reference["usage"]["prompt_tokens"] for question in questions)
    assert tokens_not_computed(vllm_engines) - before >= prompt_tokens


def test_different_images_get_different_answers(gateway: GatewayBeforeEngines) -> None:
    question = text("What is in the picture?")
    bodies = [chat(image(seed), question, max_tokens=TOKENS, return_token_ids=True) for seed in range(40, 46)]
    assert len({tuple(token_ids(answer(post(gateway.url, body)))) for body in bodies}) == len(bodies)


def test_media_travel_only_to_who_needs_them(
    gateway: GatewayBeforeEngines, vllm_engines: EnginesUnderTest, forward_media: str
) -> None:
    """By the bytes on the wire: not a stretch of the image is sent to decode, nor to prefill with `never`."""
    picture = image(77, 224, 224)
    media = picture["image_url"]["url"].partition(",")[2].encode()
    stretches = [media[start : start + 60] for start in range(0, len(media) - 60, 1000)]
    body = chat(picture, text("What is in the picture?"), max_tokens=TOKENS, return_token_ids=True)
    gateway.forget()
    reply = answer(post(gateway.url, body))
    assert token_ids(reply) == token_ids(answer(post(vllm_engines.union, body)))

    def was_sent_to(role: Role) -> bool:
        sent = gateway.proxies[role].sent()
        found = [stretch in sent for stretch in stretches]
        assert all(found) or not any(found)
        assert b"/v1/chat/completions" in sent
        return all(found)

    assert was_sent_to(Role.ENCODE)
    assert was_sent_to(Role.PREFILL) == (forward_media == "prefill")
    assert not was_sent_to(Role.DECODE)
    assert len(gateway.proxies[Role.DECODE].sent()) < 5000
