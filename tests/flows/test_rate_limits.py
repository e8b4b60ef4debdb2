"""Limits on requests and tokens before a running gateway, true over all its workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import openai
import plain_http
import psutil
import pytest
from anthropic import Anthropic
from fleet_under_test import MODEL, Engines, Gateway
from keyed_gateway import BODY, CHAT, Keys, bearer, chat
from openai import OpenAI
from processes import wait_until
from raw_client import RawConnection, post

MakeGateway = Callable[..., Gateway]
MESSAGES: Any = CHAT["messages"]
LONG = 1_000_000
"""A window in which nothing comes back during a test."""


def limits(**changes: object) -> dict[str, object]:
    return {"rate_limit_config": {"enable_rate_limit": True, "window_size": LONG, **changes}}


def statuses(url: str, number: int, key: str = "") -> list[int]:
    """Of so many requests, many at once, each on a connection of its own."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda _: chat(url, key).status_code, range(number)))


def test_four_workers_let_in_what_one_would(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config=limits(max_requests=60), workers=4)
    found = statuses(gateway.url, 100)
    assert set(found) <= {200, 429}
    # Two workers that take the last ones in the same microseconds may both find too little, never too much.
    assert 54 <= found.count(200) <= 60
    for _ in range(60 - found.count(200)):
        assert chat(gateway.url).status_code == 200
    assert statuses(gateway.url, 20) == [429] * 20
    assert gateway.count("pymotor_requests_total", path="/v1/chat/completions", status="200") == 60


def test_what_a_dead_worker_let_in_still_counts(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config=limits(max_requests=30), workers=2)
    assert statuses(gateway.url, 20).count(200) == 20
    supervisor = psutil.Process(gateway.process.pid)
    former = {child.pid for child in supervisor.children()}
    for pid in former:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: (
            not former & {child.pid for child in supervisor.children()} and gateway.fleet()["workers_listening"] == 2
        ),
        "other workers listen",
        60,
    )
    found = [chat(gateway.url).status_code for _ in range(15)]
    assert found == [200] * 10 + [429] * 5


def test_each_key_has_its_own_and_all_together_have_one(
    engines: Engines, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.json")
    usual, other, more, some = (
        keys.create("usual"),
        keys.create("other"),
        keys.create("more", "--max-requests", "6"),
        keys.create("some", "--max-requests", "2"),
    )
    config = {
        "api_key_config": {"enable_api_key": True, "keys_file": str(keys.file)},
        **limits(max_requests=17, key_max_requests=4),
    }
    gateway = make_gateway(engines, "union-0", config=config, workers=4)

    def let_in(key: str) -> int:
        return [chat(gateway.url, key).status_code for _ in range(9)].count(200)

    assert chat(gateway.url, "unknown").status_code == 401, "strangers use nothing up"
    assert [let_in(key) for key in (usual, other, more, some)] == [4, 4, 6, 2]
    last = keys.create("last")
    wait_until(lambda: chat(gateway.url, last).status_code == 200, "the seventeenth is let in")
    refused = chat(gateway.url, last)
    assert refused.status_code == 429
    assert "all clients together" in refused.json()["error"]["message"]
    assert gateway.count("pymotor_rejections_total", reason="rate_limit") >= 9 * 4 - 16


def test_what_sdks_make_of_it(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config=limits(max_requests=1, error_message="not so fast"))
    assert chat(gateway.url).status_code == 200
    client = OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=60)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert "not so fast" in caught.value.message
    assert LONG - 60 <= int(caught.value.response.headers["retry-after"]) <= LONG
    with pytest.raises(anthropic.RateLimitError) as told:
        Anthropic(base_url=gateway.url, api_key="any", max_retries=0).messages.create(
            model=MODEL, messages=MESSAGES, max_tokens=4
        )
    body: Any = told.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")


def test_what_was_used_comes_back_with_time(engines: Engines, make_gateway: MakeGateway) -> None:
    config = {"rate_limit_config": {"enable_rate_limit": True, "max_requests": 2, "window_size": 4}}
    gateway = make_gateway(engines, "union-0", config=config, workers=2)
    found = [chat(gateway.url).status_code for _ in range(8)]
    assert found[:2] == [200, 200]
    assert 429 in found
    wait_until(lambda: chat(gateway.url).status_code == 200, "another one is let in")


def test_paths_without_limit_and_a_status_of_ones_own(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config=limits(max_requests=1, error_status_code=509))
    assert chat(gateway.url).status_code == 200
    for _ in range(3):
        assert plain_http.get(f"{gateway.url}/health", timeout=60).status_code == 200
    refused = plain_http.get(f"{gateway.url}/v1/models", timeout=60)
    assert refused.status_code == 509
    assert int(refused.headers["retry-after"]) >= 1
    for path in ("/health/../v1/chat/completions", "/v1/chat/completions?/health"):
        with RawConnection(gateway.port) as connection:
            connection.send(post(BODY, path=path))
            assert connection.reply().status == 509


def tokens_config(tmp_path: Path, **changes: object) -> tuple[Keys, dict[str, object]]:
    keys = Keys(tmp_path / "keys.json")
    return keys, {
        "api_key_config": {"enable_api_key": True, "keys_file": str(keys.file)},
        **limits(max_requests=10**6, **changes),
    }


def test_tokens_are_settled_by_what_an_answer_had(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    keys, config = tokens_config(tmp_path, key_max_tokens=1000)
    key, other = keys.create("key"), keys.create("other")
    gateway = make_gateway(engines, "union-0", config=config, workers=2)
    # What an engine refuses costs nothing, though each was charged with a quarter of the limit.
    for _ in range(8):
        assert chat(gateway.url, key, max_tokens=250, temperature=-1).status_code == 400
    # More is expected of an answer than 256 tokens only when they have come.
    reply = chat(gateway.url, key, max_tokens=980, ignore_eos=True)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 980
    refused = chat(gateway.url, key, max_tokens=100)
    assert refused.status_code == 429
    assert "1000 tokens" in refused.json()["error"]["message"]
    assert chat(gateway.url, other, max_tokens=100).status_code == 200


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_streams_are_settled_too(
    engines: Engines, make_gateway: MakeGateway, tmp_path: Path, path: str, recompute: bool
) -> None:
    keys, config = tokens_config(tmp_path)
    key = keys.create("key", "--max-tokens", "1500")
    gateway = make_gateway(engines, "union-0", config={**config, "exception_config": {"recompute_enabled": recompute}})
    body = {**CHAT, "stream": True, "max_tokens": 500, "ignore_eos": True}
    if path == "/v1/messages":
        del body["ignore_eos"]
    answered = 0.0
    for _ in range(3):
        reply = plain_http.post(f"{gateway.url}{path}", json=body, headers=bearer(key), timeout=60)
        if reply.status_code != 200:
            assert reply.status_code == 429
            break
        answered += sum(b"text" in line or b"content" in line for line in reply.content.split(b"\n\n"))

    def settled() -> bool:
        counted = gateway.count("pymotor_key_answer_tokens_total", key="key")
        return bool(counted == pytest.approx(answered, abs=24))

    # The last answer may be whole at the client before it is settled.
    wait_until(settled, f"{answered} events of the answers, and a few around them, are counted")


def test_the_tokens_of_all_together(engines: Engines, make_gateway: MakeGateway) -> None:
    config = limits(max_requests=10**6, max_tokens=400)
    gateway = make_gateway(engines, "union-0", config=config, workers=4)
    found = [chat(gateway.url, max_tokens=100, ignore_eos=True).status_code for _ in range(8)]
    assert found.count(200) == 3, "each costs 100 tokens and those of its prompt"
    assert found == sorted(found)
    assert gateway.count("pymotor_rejections_total", reason="rate_limit") == 5


def test_a_client_that_goes_away_pays_for_what_it_got(
    engines: Engines, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    keys, config = tokens_config(tmp_path)
    key = keys.create("key", "--max-tokens", "50000")
    gateway = make_gateway(engines, "union-0", config=config)
    body = json.dumps({**CHAT, "stream": True, "max_tokens": 30_000, "ignore_eos": True}).encode()
    with RawConnection(gateway.port) as connection:
        connection.send(post(body, f"Authorization: Bearer {key}"))
        connection.read_until(b"\n\n")
    wait_until(
        lambda: gateway.count("pymotor_key_answers_total", key="key", outcome="left") == 1, "it is seen to have left"
    )
    assert gateway.count("pymotor_key_answer_tokens_total", key="key") < 30_000
    gateway.wait_until_idle()
