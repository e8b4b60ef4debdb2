"""Handoffs broken on purpose: the comparison that proves equality must notice each, or the gateway must mend it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec
import pytest
from answers import CHAT, Answer, Asked, ask_all, ask_one, assert_equal_answers
from fleet_under_test import PLAIN, Engines, Gateway
from images import vision_chat

_fresh = itertools.count(1000)
"""Images and texts that no cache has seen."""

MakeGateway = Callable[..., Gateway]


def fresh_requests(count: int) -> list[Asked]:
    """Requests with an image and a prompt of several KV blocks, all new to every engine."""
    return [Asked(CHAT, vision_chat(seed, text=f"{seed} " * 40)) for seed in itertools.islice(_fresh, count)]


def both_ways(gateway: Gateway, plain: str, requests: list[Asked]) -> tuple[list[Answer], list[Answer]]:
    """The answers through the fleet and those of the plain engine."""

    async def ask_both() -> tuple[list[Answer], list[Answer]]:
        return await ask_all(gateway.url, requests, 4), await ask_all(plain, requests, 4)

    return asyncio.run(ask_both())


def break_all(engines: Engines, role: str, fault: str) -> None:
    """The fault, without end, in all engines of a role."""
    for engine in engines:
        if engine.name.startswith(role):
            engine.fail(fault)


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        ("encode", "ec_wrong"),
        ("decode", "kv_drop"),
        ("decode", "kv_stale"),
        ("decode", "kv_swap"),
        ("prefill", "kv_late"),
    ],
)
def test_a_wrong_handoff_is_noticed(mended: Engines, make_gateway: MakeGateway, role: str, fault: str) -> None:
    gateway = make_gateway(mended)
    requests = fresh_requests(6)
    assert_equal_answers(requests, *both_ways(gateway, mended[PLAIN].url, requests), "the fleet")
    break_all(mended, role, fault)
    requests = fresh_requests(6)
    answers, plain = both_ways(gateway, mended[PLAIN].url, requests)
    with pytest.raises(AssertionError, match="differ from the plain engine's"):
        assert_equal_answers(requests, answers, plain, fault)


def test_a_lost_embedding_is_encoded_again_by_prefill(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended)
    break_all(mended, "encode", "ec_drop")
    requests = fresh_requests(4)
    assert_equal_answers(requests, *both_ways(gateway, mended[PLAIN].url, requests), "lost embeddings")


def test_a_lost_embedding_without_media_is_noticed(mended: Engines, make_gateway: MakeGateway) -> None:
    """A miss on metadata alone kills the engine, as it kills vLLM's; the client must not be told 200."""
    gateway = make_gateway(mended, config={"encode_config": {"forward_media": "never"}})
    break_all(mended, "encode", "ec_drop")
    requests = fresh_requests(2)
    answers, plain = both_ways(gateway, mended[PLAIN].url, requests)
    assert all(answer.status >= 500 for answer in answers)
    with pytest.raises(AssertionError, match="differ from the plain engine's"):
        assert_equal_answers(requests, answers, plain, "lost embeddings")
    gateway.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_transfer_is_prefilled_again(mended: Engines, make_gateway: MakeGateway, stream: bool) -> None:
    gateway = make_gateway(mended)
    mended["decode-0"].fail("kv_fail:count=1")
    for asked in fresh_requests(4):
        body = {**asked.body, "stream": stream}
        assert_equal_answers([asked], [ask_one(gateway.url, body)], [ask_one(mended[PLAIN].url, body)], "retries")
    assert gateway.count("pymotor_leg_failures_total", leg="decode") == 1
    gateway.wait_until_idle()


def test_a_handoff_that_comes_too_late_never_reaches_decode(mended: Engines, make_gateway: MakeGateway) -> None:
    """With no time at all for a handoff each is too late: prefill runs again and again, decode not once."""
    gateway = make_gateway(mended)
    for name in ("prefill-0", "prefill-1"):
        kv = msgspec.structs.replace(mended[name].instance().kv, handoff_seconds=0.0)
        gateway.changes[name] = {"kv": kv}
    before = sum(mended[name].metric("vllm:request_success_total") for name in ("decode-0", "decode-1"))
    gateway.use(*gateway.names)
    answer = ask_one(gateway.url, fresh_requests(1)[0].body)
    assert answer.status in (502, 503, 504), answer
    assert answer.error is not None
    assert sum(mended[name].metric("vllm:request_success_total") for name in ("decode-0", "decode-1")) == before
    gateway.wait_until_idle()
