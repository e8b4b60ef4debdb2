"""An answer through the fleet is the answer of one engine, token by token.

The simulated engine's answers depend on every embedding and every KV block it was really handed, so a handoff that
goes wrong shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from answers import Asked, ask_all, ask_one, assert_equal_answers
from fleet_under_test import PLAIN, Engines, Gateway, Role
from images import text_chat, vision_chat
from processes import wait_until
from random_requests import some

AT_ONCE = 32
EPD = ("encode-0", "encode-1", "prefill-0", "prefill-1", "decode-0", "decode-1")
WAYS: dict[str, tuple[str, tuple[str, ...], list[str], list[str]]] = {
    # configuration, engines, legs of a text request, legs of one with an image
    "E+P+D, never": ("never", EPD, ["prefill", "decode"], ["encode", "prefill", "decode"]),
    "E+U, never": ("never", ("encode-1", "union-0"), ["union"], ["encode", "union"]),
    "E+P+D, always": ("always", EPD, ["prefill", "decode"], ["encode", "prefill", "decode"]),
    "E+U": ("default", ("encode-0", "union-0"), ["union"], ["encode", "union"]),
    "P+D": (
        "default",
        ("prefill-0", "prefill-1", "decode-0", "decode-1"),
        ["prefill", "decode"],
        ["prefill", "decode"],
    ),
    "U": ("default", ("union-0",), ["union"], ["union"]),
    "P": ("default", ("prefill-0",), ["prefill"], ["prefill"]),
    "D": ("default", ("decode-0",), ["decode"], ["decode"]),
    "E+P": ("default", ("encode-0", "prefill-1"), ["prefill"], ["encode", "prefill"]),
    "E+D": ("default", ("encode-0", "decode-1"), ["decode"], ["decode"]),
    "U beside E+P+D": ("default", ("encode-0", "union-0", "prefill-0", "decode-0"), ["union"], ["encode", "union"]),
}
CONFIGS: dict[str, dict[str, object]] = {
    "default": {"scheduler_config": {"prefill_threshold": 100}},
    "never": {"encode_config": {"forward_media": "never"}},
    "always": {"encode_config": {"forward_media": "always"}},
}


def compare(gateway: Gateway, plain: str, requests: list[Asked], way: str) -> None:
    """Send the requests both ways, many at once. Raises `AssertionError` when the answers are not the same."""

    async def both() -> None:
        answers = await ask_all(gateway.url, requests, AT_ONCE)
        assert_equal_answers(requests, answers, await ask_all(plain, requests, AT_ONCE), way)

    asyncio.run(both())
    gateway.wait_until_idle()


def test_500_random_requests_through_encode_prefill_decode(engines: Engines, gateway: Gateway) -> None:
    compare(gateway, engines[PLAIN].url, some(500), "E+P+D")


@pytest.fixture(scope="module")
def configured(engines: Engines) -> Iterator[dict[str, Gateway]]:
    """A Gateway for each configuration, before the same engines."""
    with ExitStack() as opened:
        yield {name: opened.enter_context(Gateway(engines, config=config)) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("way", WAYS)
def test_random_requests_through_every_other_fleet(engines: Engines, configured: dict[str, Gateway], way: str) -> None:
    config, names, text_legs, media_legs = WAYS[way]
    gateway = configured[config]
    gateway.use(*names)

    def taken() -> bool:
        legs = ask_one(gateway.url, text_chat("Hi")).legs + ask_one(gateway.url, vision_chat(0, text="Hi")).legs
        return [leg for leg, _ in legs] == text_legs + media_legs and {name for _, name in legs} <= set(names)

    wait_until(taken, f"requests go {text_legs} and {media_legs}")
    compare(gateway, engines[PLAIN].url, some(40), way)


def test_union_gets_short_prompts_and_the_pair_long_ones(configured: dict[str, Gateway]) -> None:
    gateway = configured["default"]
    gateway.use("encode-0", "union-0", "prefill-0", "decode-0")

    def legs(text: str) -> list[str]:
        return [leg for leg, _ in ask_one(gateway.url, text_chat(text)).legs]

    wait_until(
        lambda: legs("Hello there, how are you? " * 20) == ["prefill", "decode"], "a long prompt goes to P and D"
    )
    assert legs("Hi") == ["union"]


def test_random_requests_through_a_kv_store(tmp_path: Path) -> None:
    roles = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1}
    with Engines(tmp_path, roles, kv_connector="ExampleConnector") as engines, Gateway(engines) as gateway:
        compare(gateway, engines[PLAIN].url, some(60), "a KV store")
        found = ask_one(gateway.url, vision_chat(50, 51, text="A long question. " * 30))
        assert [leg for leg, _ in found.legs] == ["encode", "encode", "prefill", "decode"]
        assert engines["decode-0"].metric("vllm:external_prefix_cache_hits_total") > 0


def test_different_images_get_different_answers(engines: Engines, gateway: Gateway) -> None:
    answers = [ask_one(gateway.url, vision_chat(seed)).choices[0].token_ids for seed in (100, 104, 108)]
    assert len({tuple(tokens) for tokens in answers}) == 3, "same size, other pixels: the answers must differ"
    assert ask_one(engines[PLAIN].url, vision_chat(100)).choices[0].token_ids == answers[0]
