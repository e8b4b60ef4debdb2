"""What a client sees when an engine, a worker or the fleet fails."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import plain_http
import psutil
import pytest
from answers import CHAT, Answer, ask_one, events_of, read_stream
from fleet_under_test import PLAIN, Engines, Gateway
from images import text_chat, vision_chat
from processes import wait_until

from pymotor.fleet import EndpointState, InstanceState

MakeGateway = Callable[..., Gateway]
QUICK = {"exception_config": {"retry_delay": 0.02}}
LONG = {"stream": True, "max_tokens": 3000, "ignore_eos": True}
EPD = ("encode-0", "encode-1", "prefill-0", "prefill-1", "decode-0", "decode-1")


@contextlib.contextmanager
def begun_stream(gateway: Gateway, body: dict[str, Any]) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    """A stream of which the first piece has come, and an iterator over the rest."""
    with plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60) as reply:
        pieces = reply.iter_text()
        first = next(pieces)
        assert first.startswith("data:")

        def rest() -> Iterator[str]:
            yield first
            yield from pieces

        yield reply, rest()


def decode_leg(answer_headers: httpx.Headers) -> str:
    """The instance of the last leg."""
    return Answer(200, headers=answer_headers).legs[-1][1]


def plain_answer(engines: Engines, body: dict[str, Any]) -> Answer:
    """What is right."""
    return ask_one(engines[PLAIN].url, body)


# An engine that dies.


def test_an_engine_killed_in_mid_stream_ends_it_with_an_error(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", "decode-1")
    for name in ("decode-0", "decode-1"):
        mended[name].fail("exit:after=5")
    reply = plain_http.post(gateway.url + CHAT, json=text_chat(**LONG), timeout=60)
    answer = read_stream(reply.text, reply.headers)
    assert reply.status_code == 200
    assert answer.done, "the stream ends with [DONE]"
    assert answer.error is not None
    assert answer.error["code"] == "stream_interrupted"
    assert "127.0.0.1" not in reply.text
    assert answer.choices[0].finish_reason is None, "never a finish reason"
    assert events_of(reply.text)[-2].startswith('{"error"'), "the error event is the last before [DONE]"
    gateway.wait_until_idle()


@pytest.mark.parametrize("role", ["encode", "prefill", "decode"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_engine_is_passed_over(mended: Engines, make_gateway: MakeGateway, role: str, stream: bool) -> None:
    """The fleet still names it, as it does until somebody notices."""
    gateway = make_gateway(mended, config=QUICK)
    mended[f"{role}-0"].kill()
    for seed in range(200, 204):
        body = vision_chat(seed, stream=stream)
        found = ask_one(gateway.url, body)
        assert found.comparable == plain_answer(mended, {**body, "stream": stream}).comparable
    gateway.wait_until_idle()


@pytest.mark.parametrize(
    "fault", ["reset:count=1", "error:code=500,count=1", "error:code=503,count=1", "late_error:count=1"]
)
@pytest.mark.parametrize("role", ["encode", "prefill", "decode"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_content_is_tried_elsewhere(
    mended: Engines, make_gateway: MakeGateway, role: str, fault: str, stream: bool
) -> None:
    gateway = make_gateway(mended, config=QUICK)
    for name in (f"{role}-0", f"{role}-1"):
        mended[name].fail(fault)
    mended[f"{role}-1"].fail()
    for seed in range(300, 304):
        body = vision_chat(seed, stream=stream)
        assert ask_one(gateway.url, body).comparable == plain_answer(mended, body).comparable
    assert gateway.count("pymotor_leg_failures_total", leg=role) == 1
    gateway.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_after_200_has_its_true_status(mended: Engines, make_gateway: MakeGateway, stream: bool) -> None:
    """vLLM sends 200 and a role event even for a request that then fails."""
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=QUICK)
    mended["decode-0"].fail("late_error")
    found = ask_one(gateway.url, text_chat(stream=stream))
    assert found.status == 502
    assert found.error is not None
    assert found.error["code"] == "engine_error"
    assert found.error["message"]
    gateway.wait_until_idle()


@pytest.mark.parametrize(
    ("code", "status"),
    [(500, 502), (503, 502), (401, 502), (403, 502), (429, 429), (400, 400), (404, 404), (422, 422)],
)
@pytest.mark.parametrize("leg", ["prefill-0", "decode-0"])
def test_engines_statuses_mean_what_they_mean(
    mended: Engines, make_gateway: MakeGateway, leg: str, code: int, status: int
) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=QUICK)
    mended[leg].fail(f"error:code={code}")
    for stream in (False, True):
        reply = plain_http.post(gateway.url + CHAT, json=text_chat(stream=stream), timeout=60)
        assert reply.status_code == status
        assert reply.json()["error"]["message"]
        assert "127.0.0.1" not in reply.text
        assert ("retry-after" in reply.headers) == (status in (429, 503))
    gateway.wait_until_idle()


def test_an_engine_that_never_answers_is_a_timeout(mended: Engines, make_gateway: MakeGateway) -> None:
    config = {"exception_config": {"first_token_timeout": 1, "max_retry": 0}}
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config)
    mended["decode-0"].fail("hang")
    assert ask_one(gateway.url, text_chat(stream=True)).status == 504
    mended["prefill-0"].fail("hang")
    assert ask_one(gateway.url, text_chat()).status == 504
    gateway.wait_until_idle()


def test_a_stream_that_falls_silent_ends_with_an_error(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config={"http_config": {"stream_idle_timeout": 1}})
    mended["decode-0"].fail("stall:after=4")
    answer = ask_one(gateway.url, text_chat(**LONG))
    assert answer.done
    assert answer.error is not None
    assert answer.choices[0].finish_reason is None
    gateway.wait_until_idle()


# Encoders.


def test_without_encoders_images_go_inline(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, config=QUICK)
    for name in ("encode-0", "encode-1"):
        mended[name].kill()
    body = vision_chat(400, 401, 400)
    found = ask_one(gateway.url, body)
    assert found.comparable == plain_answer(mended, body).comparable
    assert [leg for leg, _ in found.legs] == ["prefill", "decode"]
    assert gateway.count("pymotor_media_items_total", outcome="inline") == 2


def test_without_encoders_and_fallback_fail_is_502(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, config={**QUICK, "encode_config": {"fallback": "fail"}})
    for name in ("encode-0", "encode-1"):
        mended[name].fail("error:code=500")
    found = ask_one(gateway.url, vision_chat(410))
    assert found.status == 502
    assert found.error is not None
    assert found.error["code"] == "encode_failed"
    assert ask_one(gateway.url, text_chat()).status == 200, "text needs no encoder"
    gateway.wait_until_idle()


def test_one_item_that_fails_makes_its_modality_inline(mended: Engines, make_gateway: MakeGateway) -> None:
    """Raw media and metadata of one modality never mix: engines refuse that."""
    gateway = make_gateway(
        mended, "encode-0", "prefill-0", "decode-0", config={"encode_config": {"forward_media": "never"}}
    )
    mended["encode-0"].fail("error:code=500,count=1")
    body = vision_chat(420, 421, 422)
    assert ask_one(gateway.url, body).comparable == plain_answer(mended, body).comparable


# Bytes that come as they like.


@pytest.mark.parametrize("fault", ["split:bytes=1", "split:bytes=5", "merge:events=4", "merge:events=1000"])
def test_events_split_and_merged(mended: Engines, make_gateway: MakeGateway, fault: str) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0")
    mended["decode-0"].fail(fault)
    body = text_chat(stream=True, max_tokens=20, ignore_eos=True, stream_options={"include_usage": True})
    assert ask_one(gateway.url, body).comparable == plain_answer(mended, body).comparable


def test_idle_connections_that_an_engine_closed_harm_nobody(mended: Engines, make_gateway: MakeGateway) -> None:
    """The engine restarts between two requests: every kept connection is dead, and no request sees it."""
    gateway = make_gateway(mended, "prefill-0", "decode-0")
    for _ in range(3):
        assert ask_one(gateway.url, text_chat()).status == 200
        for name in ("prefill-0", "decode-0"):
            mended[name].kill()
            mended[name].mend()
    assert ask_one(gateway.url, text_chat()).status == 200
    assert gateway.count("pymotor_leg_failures_total") == 0


# The fleet changes.


def test_an_instance_taken_away_finishes_its_streams(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended)
    body = text_chat(**{**LONG, "max_tokens": 400})
    with begun_stream(gateway, body) as (reply, rest):
        gone = decode_leg(reply.headers)
        gateway.use(*(name for name in EPD if name != gone))
        text = "".join(rest)
    assert read_stream(text, reply.headers).comparable == plain_answer(mended, body).comparable
    wait_until(lambda: gone not in {name for _, name in ask_one(gateway.url, text_chat()).legs}, f"{gone} gets no more")
    for _ in range(6):
        assert ask_one(gateway.url, text_chat()).legs[-1][1] != gone
    gateway.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_not_left_waiting_for_an_engine_known_to_be_unhealthy(
    mended: Engines, make_gateway: MakeGateway, stream: bool
) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0")
    mended["decode-0"].fail("hang")
    body = text_chat(stream=stream)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask_one, gateway.url, body)
        wait_until(lambda: gateway.loads()["decode-0/0"][1] == 1, "the request waits for decode")
        sick = msgspec.structs.replace(mended["decode-0"].instance().endpoints[0], state=EndpointState.UNHEALTHY)
        gateway.changes["decode-0"] = {"state": InstanceState.INACTIVE, "endpoints": (sick,)}
        gateway.use("prefill-0", "decode-0", "decode-1")
        answer = waiting.result(60)
    assert answer.status == 200
    assert answer.legs[-1] == ("decode", "decode-1")
    assert answer.comparable == plain_answer(mended, body).comparable
    gateway.wait_until_idle()


def test_a_new_instance_gets_requests(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0")
    assert {name for _, name in ask_one(gateway.url, text_chat()).legs} == {"prefill-0", "decode-0"}
    gateway.use("prefill-0", "decode-0", "decode-1")
    wait_until(lambda: ask_one(gateway.url, text_chat()).legs[-1][1] == "decode-1", "decode-1 gets its turn")


def test_nobody_serves_then_somebody_does(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "encode-0")
    for stream in (False, True):
        reply = plain_http.post(gateway.url + CHAT, json=text_chat(stream=stream), timeout=60)
        assert reply.status_code == 503
        assert reply.json()["detail"] == "Service is not available"
        assert list(reply.json()) == ["detail", "error"]
        assert int(reply.headers["retry-after"]) >= 1
    assert plain_http.get(f"{gateway.url}/readiness", timeout=60).status_code == 503
    assert plain_http.get(f"{gateway.url}/health", timeout=60).status_code == 200
    gateway.use("encode-0", "prefill-0", "decode-0")
    wait_until(lambda: ask_one(gateway.url, text_chat()).status == 200, "requests are served")


def test_rubbish_in_the_fleets_file_changes_nothing(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0")
    for rubbish in (b"", b"{", b'{"version": 99, "instances": 5}'):
        gateway.fleet_file.write_bytes(rubbish)
        assert ask_one(gateway.url, text_chat()).status == 200
    gateway.use("prefill-1", "decode-0")
    wait_until(lambda: ("prefill", "prefill-1") in ask_one(gateway.url, text_chat()).legs, "a good file is read again")


# A worker dies.


def test_a_killed_worker_is_replaced_and_leaves_nothing_in_the_ledger(
    mended: Engines, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    gateway = make_gateway(mended, workers=2)
    for name in ("decode-0", "decode-1"):
        mended[name].fail("hang")
    asking = [threading.Thread(target=_ask_whatever_happens, args=(gateway.url,)) for _ in range(8)]
    for thread in asking:
        thread.start()
    wait_until(lambda: gateway.fleet()["in_flight"] >= 8, "all requests hang in decode")
    children = psutil.Process(gateway.process.pid).children()
    workers = [child for child in children if "worker" in " ".join(child.cmdline())] or children
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    for name in ("decode-0", "decode-1"):
        mended[name].fail()
    wait_until(lambda: _is_served(gateway.url), "the other worker serves")
    os.kill(workers[1].pid, signal.SIGKILL)
    for thread in asking:
        thread.join(60)
    wait_until(lambda: gateway.fleet()["workers_listening"] == 2, "both workers are back")
    gateway.wait_until_idle()
    assert ask_one(gateway.url, text_chat()).status == 200


def _is_served(url: str) -> bool:
    """Whether a client is; one whose connection the dead worker was to accept is not."""
    try:
        return ask_one(url, text_chat()).status == 200
    except httpx.TransportError:
        return False


def _ask_whatever_happens(url: str) -> None:
    with contextlib.suppress(httpx.TransportError, json.JSONDecodeError):
        plain_http.post(url + CHAT, json=text_chat(), timeout=60)
