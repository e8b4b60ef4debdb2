"""Fleets of the dialects in which the gateway joins prefill and decode, and what is asked of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from answers import COMPLETIONS, Answer, Asked, ask_all, ask_one, assert_equal_answers
from fleet_under_test import PLAIN, Engines, Gateway
from images import text_chat
from processes import wait_until

LEGS = {"prefill", "decode"}


def assert_all_equal(gateway: Gateway, requests: Sequence[Asked], at_once: int = 16) -> None:
    """Answers through the fleet are the plain engine's, and nothing is left behind by them."""
    engines = gateway.engines

    async def both() -> None:
        found = await ask_all(gateway.url, requests, at_once)
        expected = await ask_all(engines[PLAIN].url, requests, at_once)
        assert_equal_answers(requests, found, expected, engines["prefill-0"].kv_connector)

    asyncio.run(both())
    assert_nothing_left(gateway)


def ask_fleet(gateway: Gateway, text: str, **fields: object) -> Answer:
    """A chat through the fleet; if it was answered, as the plain engine answers."""
    body = text_chat(text, **fields)
    answer = ask_one(gateway.url, body)
    if answer.status == 200 and answer.error is None:
        expected = ask_one(gateway.engines[PLAIN].url, body)
        assert answer.comparable == expected.comparable
    return answer


def assert_nothing_left(gateway: Gateway) -> None:
    """The ledger is zero and no engine has anything in hand."""
    gateway.wait_until_idle()
    for engine in gateway.engines:
        if engine.alive:
            wait_until(lambda engine=engine: not engine.in_hand(), f"{engine.name} has nothing in hand")  # type: ignore[misc]


def legs_of(answer: Answer) -> set[str]:
    """The names of the legs that `Server-Timing` tells."""
    return {leg for leg, _ in answer.legs}


def prompts(count: int, **fields: object) -> Asked:
    """A completions request with so many prompts."""
    texts = [f"Prompt number {number}: {'and so on, ' * number}" for number in range(count)]
    body = {"model": "tiny", "prompt": texts, "max_tokens": 6, "temperature": 0, "return_token_ids": True, **fields}
    return Asked(COMPLETIONS, body)


def several_answers(engines: Engines) -> list[Asked]:
    """Several prompts, several answers, and both, streamed and whole."""
    assert PLAIN in engines.by_name
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    kinds: list[dict[str, object]] = [{}, {"n": 2, "temperature": 0.7, "seed": 3}, usage]
    chats = [
        Asked("/v1/chat/completions", text_chat("Once", n=3, temperature=1.0, seed=5, **more)) for more in ({}, usage)
    ]
    return [prompts(count, **kind) for count in (2, 5, 17) for kind in kinds] + chats
