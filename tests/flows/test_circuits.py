"""Further tries: where they go, how many there are, when they end; endpoints that fail again and again are spared."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import plain_http
import psutil
import pytest
from answers import CHAT, ask_one, read_stream
from fleet_under_test import PLAIN, Engines, Gateway
from images import png, text_chat
from processes import wait_until

MakeGateway = Callable[..., Gateway]
TOKENS = 40
LARGE = {"metadata": {"note": "x" * 200_000}}
SUCCESSES = "vllm:request_success_total"


def config(**exceptions: object) -> dict[str, Any]:
    """Quick tries, and these keys of `exception_config`."""
    return {"exception_config": {"retry_delay": 0.02, **exceptions}}


def state(gateway: Gateway, name: str) -> str:
    """The state of an endpoint's circuit; empty where nothing is known of it."""
    states = ("closed", "half_open", "open")
    found = [s for s in states if gateway.count("pymotor_circuit_state", endpoint=f"{name}/0", state=s)]
    assert len(found) <= 1
    return found[0] if found else ""


def failures(gateway: Gateway, name: str) -> float:
    """Legs to it that failed."""
    return gateway.count("pymotor_leg_failures_total", instance=name)


@pytest.mark.parametrize("fault", ["error:code=500", "reset", "late_error"])
def test_an_endpoint_that_fails_again_and_again_is_spared_until_it_is_well(
    mended: Engines, make_gateway: MakeGateway, fault: str
) -> None:
    keys = config(circuit_failures=3, circuit_pause=0.2, circuit_longest_pause=1)
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=keys)
    mended["decode-0"].fail(fault)
    asked = 0
    while state(gateway, "decode-0") not in ("open", "half_open"):
        asked += 1
        assert ask_one(gateway.url, text_chat(stream=bool(asked % 2))).status == 200
        assert asked <= 20
    assert failures(gateway, "decode-0") == 3
    mended["decode-0"].fail()
    wait_until(lambda: ask_one(gateway.url, text_chat()).legs[-1][1] == "decode-0", "decode-0 gets a probe")
    assert state(gateway, "decode-0") == ""
    gateway.wait_until_idle()


def test_a_spared_endpoint_gets_one_probe_at_a_time(mended: Engines, make_gateway: MakeGateway) -> None:
    keys = config(circuit_failures=1, circuit_pause=0.3, circuit_longest_pause=60)
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=keys)
    mended["decode-0"].kill()
    for _ in range(60):
        assert ask_one(gateway.url, text_chat(max_tokens=1)).status == 200
    assert 1 <= failures(gateway, "decode-0") <= 8, "each probe that fails doubles the pause"


def test_what_is_not_the_engines_trouble_opens_no_circuit(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config(circuit_failures=1, max_retry=0))
    for code in (400, 404, 429):
        mended["decode-0"].fail(f"error:code={code}")
        assert ask_one(gateway.url, text_chat()).status == code
    mended["decode-0"].fail("recomputed:after=2,count=1")
    assert ask_one(gateway.url, text_chat()).status == 503
    assert state(gateway, "decode-0") == ""


def test_with_all_circuits_open_requests_are_still_sent(mended: Engines, make_gateway: MakeGateway) -> None:
    keys = config(circuit_failures=1, circuit_pause=60, circuit_longest_pause=60)
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=keys)
    mended["decode-0"].fail("error:code=500,count=2")
    mended["prefill-0"].fail("error:code=500,count=1")
    assert ask_one(gateway.url, text_chat()).status == 502
    for _ in range(3):
        ask_one(gateway.url, text_chat())
    assert ask_one(gateway.url, text_chat()).status == 200


def test_an_endpoint_started_again_is_trusted_again(mended: Engines, make_gateway: MakeGateway) -> None:
    keys = config(circuit_failures=1, circuit_pause=600, circuit_longest_pause=600)
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=keys)
    mended["decode-0"].kill()
    while state(gateway, "decode-0") != "open":
        assert ask_one(gateway.url, text_chat()).status == 200
    gateway.use(*gateway.names)
    mended["decode-0"].mend()
    gateway.use(*gateway.names)
    wait_until(lambda: ask_one(gateway.url, text_chat()).legs[-1][1] == "decode-0", "decode-0 is used")


# Further tries.


@pytest.mark.parametrize("stream", [False, True])
def test_decode_that_refuses_does_not_make_prefill_run_again(
    mended: Engines, make_gateway: MakeGateway, stream: bool
) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=config(circuit_failures=0))
    mended["decode-0"].kill()
    before = mended["prefill-0"].metric(SUCCESSES)
    body = text_chat(stream=stream)
    plain = ask_one(mended[PLAIN].url, body)
    for _ in range(4):
        assert ask_one(gateway.url, body).comparable == plain.comparable
    assert failures(gateway, "decode-0") >= 1
    assert mended["prefill-0"].metric(SUCCESSES) == before + 4
    assert gateway.count("pymotor_retries_total") == 0
    gateway.wait_until_idle()


def test_no_try_begins_that_does_not_fit_the_deadline(mended: Engines, make_gateway: MakeGateway) -> None:
    keys = config(infer_timeout=4, retry_delay=30, max_retry=100)
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=keys)
    mended["decode-0"].fail("error:code=429")
    assert ask_one(gateway.url, text_chat()).status == 429
    assert gateway.count("pymotor_retries_total", outcome="deadline") == 1


def test_the_process_has_a_budget_of_tries(mended: Engines, make_gateway: MakeGateway) -> None:
    keys = config(retry_budget_ratio=0, retry_budget_floor=0.35, circuit_failures=0)
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=keys)
    mended["decode-0"].fail("error:code=503")
    for _ in range(3):
        assert ask_one(gateway.url, text_chat()).status == 502
    assert gateway.count("pymotor_retries_total", outcome="budget") >= 1
    assert gateway.count("pymotor_retries_total", outcome="tried") <= 4


def test_after_a_reset_there_is_one_further_try(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=config())
    for name in ("decode-0", "decode-1"):
        mended[name].fail("reset")
    assert ask_one(gateway.url, text_chat()).status == 502
    assert gateway.count("pymotor_leg_failures_total", leg="decode") == 2
    assert gateway.count("pymotor_retries_total", outcome="exhausted") == 1


@pytest.mark.parametrize("allowed", [0, 3])
def test_how_many_tries_follow_a_reset_can_be_said(mended: Engines, make_gateway: MakeGateway, allowed: int) -> None:
    keys = config(engine_failure_max_retry=allowed, circuit_failures=0)
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=keys)
    body = text_chat()
    mended["decode-0"].fail(f"reset:count={allowed}")
    if allowed:
        assert ask_one(gateway.url, body).comparable == ask_one(mended[PLAIN].url, body).comparable
        assert failures(gateway, "decode-0") == allowed
    mended["decode-0"].fail(f"error:code=500,count={allowed + 1}")
    assert ask_one(gateway.url, body).status == 502
    assert failures(gateway, "decode-0") == 2 * allowed + 1
    gateway.wait_until_idle()


@pytest.mark.parametrize("fault", ["kill", "error:code=500"])
def test_when_all_have_failed_it_is_not_the_turn_of_the_last_that_did(
    mended: Engines, make_gateway: MakeGateway, fault: str
) -> None:
    """The other may be well again by now."""
    keys = config(max_retry=2, engine_failure_max_retry=2)
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=keys)
    mended["decode-0"].fail("error:code=500,count=1")
    if fault == "kill":
        mended["decode-1"].kill()
    else:
        mended["decode-1"].fail(fault)
    answer = ask_one(gateway.url, text_chat())
    assert answer.comparable == ask_one(mended[PLAIN].url, text_chat()).comparable
    assert answer.legs[-1] == ("decode", "decode-0")
    assert failures(gateway, "decode-0") == failures(gateway, "decode-1") == 1, "equals take turns in their order"
    gateway.wait_until_idle()


def test_tries_of_one_leg_are_counted_for_themselves(mended: Engines, make_gateway: MakeGateway) -> None:
    keys = config(max_retry=9, transport_max_retry=2, circuit_failures=0)
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=keys)
    mended["prefill-0"].fail("error:code=429,count=2")
    mended["decode-0"].fail("error:code=429,count=2")
    assert ask_one(gateway.url, text_chat()).status == 200
    mended["decode-0"].fail("error:code=429,count=3")
    assert ask_one(gateway.url, text_chat()).status == 429


# Deadlines.


def test_first_content_is_due_whatever_came_before(mended: Engines, make_gateway: MakeGateway) -> None:
    """An engine sends 200 and a role event at once, and then nothing."""
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config(first_token_timeout=3, max_retry=0))
    mended["decode-0"].fail("stall:after=1")
    reply = plain_http.post(gateway.url + CHAT, json=text_chat(stream=True), timeout=60)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "engine_timeout"
    gateway.wait_until_idle()


def test_a_whole_answer_may_take_longer_than_its_first_token(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config(first_token_timeout=3, max_retry=0))
    mended["decode-0"].fail("slow:seconds=6")
    assert ask_one(gateway.url, text_chat()).status == 200
    mended["decode-0"].fail()
    mended["prefill-0"].fail("slow:seconds=6")
    assert ask_one(gateway.url, text_chat()).status == 504


def test_a_whole_answer_has_to_be_there_in_time(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config(infer_timeout=2, max_retry=0))
    mended["decode-0"].fail("hang")
    assert ask_one(gateway.url, text_chat()).status == 504
    gateway.wait_until_idle()


@pytest.mark.parametrize("keeps_tokens", [True, False])
def test_a_stream_may_take_longer_than_its_first_token(
    mended: Engines, make_gateway: MakeGateway, keeps_tokens: bool
) -> None:
    """The client reads for longer than the deadlines before the first content are."""
    keys = {**config(first_token_timeout=2), "http_config": {"stream_idle_timeout": 20}}
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=keys)
    mended["decode-0"].fail("split:bytes=20")
    body = text_chat(stream=True, max_tokens=1000, ignore_eos=True)
    if not keeps_tokens:
        body["logprobs"] = True
    reply = plain_http.post(gateway.url + CHAT, json=body, timeout=60)
    answer = read_stream(reply.text, httpx.Headers())
    assert answer.error is None
    assert len(answer.choices[0].text) == 1000
    assert failures(gateway, "decode-0") == 0


# What is kept of bodies.


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_is_not_kept_is_not_sent_again(mended: Engines, make_gateway: MakeGateway, stream: bool) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=config(recovery_buffer_bytes=0))
    body = {**text_chat(stream=stream, max_tokens=TOKENS, ignore_eos=True), **LARGE}
    plain = ask_one(mended[PLAIN].url, body)
    for _ in range(3):
        assert ask_one(gateway.url, body).comparable == plain.comparable
    for name in ("decode-0", "decode-1"):
        mended[name].fail("error:code=503,count=1")
    assert ask_one(gateway.url, body).status == 502
    assert gateway.count("pymotor_retries_total", outcome="unbuffered") == 1
    gateway.wait_until_idle()


def test_a_stream_whose_body_is_gone_is_carried_on(mended: Engines, make_gateway: MakeGateway) -> None:
    """Its tokens are enough."""
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1", config=config(recovery_buffer_bytes=0))
    body = {**text_chat(stream=True, max_tokens=TOKENS, ignore_eos=True), **LARGE}
    plain = ask_one(mended[PLAIN].url, body)
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=6,count=1")
    assert ask_one(gateway.url, body).comparable == plain.comparable
    assert gateway.count("pymotor_broken_streams_total", outcome="carried_on") >= 1


@pytest.mark.parametrize(
    ("sampling", "keys", "most"),
    [
        pytest.param({"temperature": 1}, {}, 60, id="a broken stream cannot be repeated"),
        pytest.param({"temperature": 0}, {"recovery_buffer_bytes": 24 * 1024 * 1024}, 90, id="only one fits"),
    ],
)
def test_memory_of_bodies_is_free_while_their_answers_are_streamed(
    mended: Engines, make_gateway: MakeGateway, sampling: dict[str, object], keys: dict[str, object], most: int
) -> None:
    gateway = make_gateway(mended, "encode-0", "prefill-0", "decode-0", config=config(**keys))
    worker = next(child for child in psutil.Process(gateway.process.pid).children() if is_worker(child))
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + image_of(16 * 1024 * 1024)}}
    body = text_chat(stream=True, max_tokens=4000, ignore_eos=True, **sampling)
    body["messages"] = [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]
    assert ask_one(gateway.url, {**body, "max_tokens": 1}).status == 200
    before = worker.memory_info().rss
    with contextlib.ExitStack() as opened:
        for _ in range(6):
            reply = opened.enter_context(plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60))
            assert next(reply.iter_raw())
        assert worker.memory_info().rss - before < most * 1024 * 1024, "six bodies are 128 MiB"
    gateway.wait_until_idle()


def is_worker(process: psutil.Process) -> bool:
    """Whether it is the one that handles requests."""
    return any("coordinator.worker" in word for word in process.cmdline())


def image_of(size: int) -> str:
    """Base64 of a PNG with so many bytes behind its pixels."""
    return base64.b64encode(png(64, 64, 1) + bytes(size)).decode()
