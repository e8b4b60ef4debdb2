"""Streams that break off in their midst: carried on elsewhere without a token lost or doubled, or ended by an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import plain_http
import pytest
from answers import CHAT, COMPLETIONS, Answer, ask_one, events_of, read_stream
from fleet_under_test import PLAIN, Engines, Gateway
from images import text_chat, vision_chat

MakeGateway = Callable[..., Gateway]
QUICK: dict[str, Any] = {
    "exception_config": {"retry_delay": 0.02},
    "http_config": {"stream_idle_timeout": 1},
}
TOKENS = 40
BREAKS = ["exit:after=9", "cut:after=9", "stall:after=9", "recomputed:after=9"]


def chat(**fields: object) -> dict[str, Any]:
    """A greedy streamed chat that does not ask for token ids."""
    body = text_chat(
        stream=True, max_tokens=TOKENS, ignore_eos=True, stream_options={"include_usage": True}, **fields
    )
    del body["return_token_ids"]
    return body


def completion(**fields: object) -> dict[str, Any]:
    """The same as a completion."""
    body = {**chat(), "prompt": "Tell me a story.", **fields}
    del body["messages"]
    return body


def both(engines: Engines, gateway: Gateway, body: dict[str, Any], path: str = CHAT) -> tuple[str, str]:
    """The streams through the gateway and of the plain engine, as text."""
    replies = [plain_http.post(url + path, json=body, timeout=60) for url in (gateway.url, engines[PLAIN].url)]
    assert [reply.status_code for reply in replies] == [200, 200], replies[0].text
    return replies[0].text, replies[1].text


def answer_of(stream: str) -> Answer:
    """The answer in a stream."""
    return read_stream(stream, httpx.Headers())


def assert_one_answer(stream: str, plain: str) -> None:
    """The stream is whole, as the plain engine's, and looks like one engine's."""
    found, expected = answer_of(stream), answer_of(plain)
    assert found.error is None
    assert found.done
    assert found.comparable == expected.comparable
    events = [json.loads(event) for event in events_of(stream) if event != "[DONE]"]
    for name in ("id", "created", "model", "object"):
        assert len({event[name] for event in events}) == 1, name
    roles = [c["delta"]["role"] for event in events for c in event["choices"] if "role" in c.get("delta", {})]
    assert len(roles) == (1 if events[0]["object"].startswith("chat") else 0)
    assert [set(event) for event in events if event["choices"]][-1] >= {"id", "choices"}


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_broken_stream_is_carried_on(mended: Engines, make_gateway: MakeGateway, fault: str, path: str) -> None:
    gateway = make_gateway(mended, "prefill-0", "prefill-1", "decode-0", "decode-1", config=QUICK)
    mended["decode-0"].fail(fault + ",count=1")
    mended["decode-1"].fail(fault + ",count=1") if fault.startswith("recomputed") else None
    body = chat() if path == CHAT else completion()
    for _ in range(2):
        stream, plain = both(mended, gateway, body, path)
        assert_one_answer(stream, plain)
        assert '_ids":[' not in stream
    assert gateway.count("pymotor_broken_streams_total", outcome="carried_on") >= 1
    gateway.wait_until_idle()
