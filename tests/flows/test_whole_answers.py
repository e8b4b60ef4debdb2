"""Whole answers that are not there in time: what their time is, and who gives them instead."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import plain_http
import pytest
from answers import CHAT, COMPLETIONS, read_whole
from fleet_under_test import MODEL, PLAIN, Engines, Gateway
from images import text_chat, vision_chat

MakeGateway = Callable[..., Gateway]
MESSAGES, RESPONSES, COUNT = "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"
TEXT = "Tell me a story."
SLOW = "slow:seconds=6"
"""Beyond the three seconds until a first token, and beyond the next look at deadlines."""
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, text_chat(TEXT)),
    "chat, newer field": (CHAT, {**text_chat(TEXT, max_completion_tokens=8), "max_tokens": None}),
    "an image": (CHAT, vision_chat(900, max_tokens=8)),
    "two answers": (CHAT, text_chat(TEXT, n=2, temperature=0.8, seed=5)),
    "completion": (COMPLETIONS, {"model": MODEL, "prompt": TEXT, "max_tokens": 8, "temperature": 0}),
    "two prompts": (COMPLETIONS, {"model": MODEL, "prompt": [TEXT, "And then"], "max_tokens": 8, "temperature": 0}),
    "messages": (MESSAGES, {**text_chat(TEXT), "return_token_ids": None}),
    "responses": (RESPONSES, {"model": MODEL, "input": TEXT, "max_output_tokens": 8, "temperature": 0}),
}
_VARYING = re.compile(r'"(id|item_id|created_at|created|cached_tokens)":("[^"]*"|[0-9.]+)')


def config(output_token_timeout: float, **exceptions: object) -> dict[str, Any]:
    """Three seconds until the first token, so much for each of them, and these keys of `exception_config`."""
    keys = {"retry_delay": 0.02, "circuit_failures": 0, "first_token_timeout": 3, **exceptions}
    return {"exception_config": {**keys, "output_token_timeout": output_token_timeout}}


def ask(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send it."""
    return plain_http.post(url + path, json=body, timeout=60)


def said(path: str, reply: httpx.Response) -> object:
    """What is the same in every right answer."""
    assert reply.status_code == 200, reply.text
    if path in (CHAT, COMPLETIONS):
        return read_whole(reply).comparable
    found = json.loads(_VARYING.sub(r'"\1":0', reply.text))
    return {name: value for name, value in found.items() if not name.endswith("_transfer_params")}


def timeouts(gateway: Gateway) -> float:
    """Legs to decode that were given up."""
    return gateway.count("pymotor_leg_failures_total", leg="decode", reason="timeout")


@pytest.mark.parametrize("name", WHOLE)
def test_another_engine_answers_for_one_that_hangs(mended: Engines, make_gateway: MakeGateway, name: str) -> None:
    gateway = make_gateway(mended, config=config(0.02))
    path, body = WHOLE[name]
    right = said(path, ask(mended[PLAIN].url, path, body))
    mended["decode-0"].fail("hang")
    for _ in range(8):
        assert said(path, ask(gateway.url, path, body)) == right
        if timeouts(gateway):
            break
    assert timeouts(gateway) >= 1
    assert gateway.count("pymotor_retries_total", outcome="tried") == 1
    gateway.wait_until_idle()


def test_when_all_hang_it_is_a_timeout_after_one_further_try(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, config=config(0.02))
    for name in ("decode-0", "decode-1"):
        mended[name].fail("hang")
    reply = ask(gateway.url, CHAT, text_chat())
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "engine_timeout")
    assert timeouts(gateway) == 2
    assert gateway.count("pymotor_retries_total", outcome="exhausted") == 1
    gateway.wait_until_idle()


@pytest.mark.parametrize(
    ("per_token", "path", "body", "status"),
    [
        pytest.param(0.01, CHAT, text_chat(max_tokens=8), 504, id="over"),
        pytest.param(1.0, CHAT, text_chat(max_tokens=8), 200, id="long enough"),
        pytest.param(0.0, CHAT, text_chat(max_tokens=8), 200, id="off"),
        pytest.param(0.01, COMPLETIONS, {"model": MODEL, "prompt": TEXT}, 200, id="no limit of tokens"),
        pytest.param(0.01, RESPONSES, {"model": MODEL, "input": TEXT, "max_output_tokens": 8, "tools": [
            {"type": "code_interpreter"}]}, 200, id="tools that the engine runs"),
        pytest.param(0.01, COUNT, text_chat(max_tokens=8, return_token_ids=None), 200, id="nothing is generated"),
    ],
)  # fmt: skip
def test_how_long_a_whole_answer_may_take(
    mended: Engines, make_gateway: MakeGateway, per_token: float, path: str, body: dict[str, Any], status: int
) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config(per_token, max_retry=0))
    answering = "prefill-0" if path == COUNT else "decode-0"
    mended[answering].fail(SLOW)
    assert ask(gateway.url, path, body).status_code == status
    gateway.wait_until_idle()


@pytest.mark.parametrize(
    "several",
    [{"n": 8, "temperature": 1.0}, {"prompt": [TEXT] * 8}, {"prompt": [TEXT] * 2, "n": 4, "temperature": 1.0}],
    ids=["answers", "prompts", "both"],
)
def test_answers_of_one_leg_have_their_time_together(
    mended: Engines, make_gateway: MakeGateway, several: dict[str, object]
) -> None:
    """Decode alone takes them all at once, and nobody knows whether it computes them side by side."""
    gateway = make_gateway(mended, "decode-0", config=config(0.1, max_retry=0))
    body = {"model": MODEL, "prompt": TEXT, "max_tokens": 8, "temperature": 0}
    mended["decode-0"].fail(SLOW)
    assert ask(gateway.url, COMPLETIONS, body).status_code == 504
    assert ask(gateway.url, COMPLETIONS, body | several).status_code == 200
    gateway.wait_until_idle()
