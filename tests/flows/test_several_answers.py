"""Streams of several answers, each of which is a handoff of its own: slow readers, deadlines, further tries."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import httpx
import plain_http
import psutil
import pytest
from answers import CHAT, COMPLETIONS, Answer, ask_one, events_of, read_stream
from fleet_under_test import PLAIN, Engines, Gateway
from images import text_chat
from processes import wait_until
from raw_client import RawConnection, post

TOKENS = 40
LONG = 2000
PAIRS = ("prefill-0", "prefill-1", "decode-0", "decode-1")
MEBIBYTE = 1024 * 1024


def config(first_token_timeout: float, stream_idle_timeout: float) -> dict[str, Any]:
    """Timeouts in seconds; the others are as by default."""
    return {
        "exception_config": {
            "retry_delay": 0.02,
            "circuit_failures": 0,
            "first_token_timeout": first_token_timeout,
        },
        "http_config": {"stream_idle_timeout": stream_idle_timeout},
    }


@pytest.fixture(scope="module")
def before_all(fragile: Engines) -> Iterator[Gateway]:
    """One Gateway that waits for a first token only shortly, and long for those after it."""
    fragile.restore()
    with Gateway(fragile, PAIRS, config=config(4, 600), label="several") as running:
        yield running
        assert "Traceback" not in running.process.log.read_text()


@pytest.fixture
def gateway(before_all: Gateway, mended: Engines) -> Iterator[Gateway]:
    """The same, with nothing in hand after the test."""
    assert mended is before_all.engines
    before_all.use(*PAIRS)
    yield before_all
    before_all.wait_until_idle()


def sampled(n: int = 2, max_tokens: int = TOKENS, **fields: object) -> dict[str, Any]:
    """A streamed chat with `n` answers, each of which is another one every time."""
    usage = {"include_usage": True}
    body = text_chat(stream=True, n=n, max_tokens=max_tokens, ignore_eos=True, temperature=1.0, stream_options=usage)
    return {**body, **fields}


def assert_whole(answer: Answer, n: int = 2, tokens: int = TOKENS) -> None:
    """The stream is whole: every answer has all of its tokens once, and the usage is that of all."""
    assert answer.error is None, answer.error
    assert answer.done
    assert {number: len(choice.token_ids) for number, choice in answer.choices.items()} == dict.fromkeys(
        range(n), tokens
    )
    assert all(choice.finish_reason == "length" for choice in answer.choices.values())
    assert answer.usage is not None
    assert answer.usage[1] == n * tokens


def roles(stream: str) -> Counter[int]:
    """How often each choice of a chat's stream is given a role."""
    told: Counter[int] = Counter()
    for event in events_of(stream):
        for choice in json.loads(event).get("choices", ()) if event != "[DONE]" else ():
            if choice["delta"].get("role"):
                told[choice["index"]] += 1
    return told


def in_hand(gateway: Gateway) -> int:
    """Legs to decode that are not over, as the ledger has them."""
    return sum(count for endpoint, (_, count) in gateway.loads().items() if endpoint.startswith("decode"))


def worker_of(gateway: Gateway) -> psutil.Process:
    """The gateway's only worker process."""
    (worker,) = [
        child
        for child in psutil.Process(gateway.process.pid).children(recursive=True)
        if any("pymotor.coordinator.worker_control" in part for part in child.cmdline())
    ]
    return worker


# Clients that read slowly.


def long(n: int) -> dict[str, Any]:
    """A request for `n` answers, each of which is megabytes on the wire: more than sockets hold."""
    return sampled(n, LONG, logprobs=True, top_logprobs=20)


def slow_reader(gateway: Gateway, n: int) -> RawConnection:
    """A client that asks for `n` long answers and reads nothing."""
    reader = RawConnection(gateway.port)
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    reader.socket.settimeout(60)
    reader.send(post(json.dumps(long(n)).encode()))
    wait_until(lambda: in_hand(gateway) >= n, "all answers have begun")
    return reader


def ask_a_slow_fleet(gateway: Gateway) -> None:
    """Something else, and it takes five seconds."""
    for name in ("prefill-0", "prefill-1"):
        gateway.engines[name].fail("slow:seconds=5")
    assert_whole(ask_one(gateway.url, sampled()))


@pytest.fixture
def patient(mended: Engines) -> Iterator[Gateway]:
    """A Gateway that waits long for a slow client, and hardly for an engine that is silent."""
    settings = config(60, 4)
    settings["http_config"]["body_idle_timeout"] = 300
    with Gateway(mended, PAIRS, config=settings, label="patient") as started:
        yield started
        started.wait_until_idle()
        assert "Traceback" not in started.process.log.read_text()


def test_engines_are_read_as_slowly_as_the_client_reads(patient: Gateway) -> None:
    n = 8
    assert_whole(ask_one(patient.url, sampled(n)), n)
    worker = worker_of(patient)
    before = worker.memory_info().rss
    with slow_reader(patient, n) as reader:
        ask_a_slow_fleet(patient)
        assert worker.memory_info().rss - before < 16 * MEBIBYTE
        reply = HTTPResponse(reader.socket)
        reply.begin()
        text = reply.read().decode()
    assert_whole(read_stream(text, httpx.Headers()), n, LONG)


def test_a_slow_client_that_goes_away(patient: Gateway) -> None:
    with slow_reader(patient, 8):
        ask_a_slow_fleet(patient)
        assert in_hand(patient) == 8
    patient.wait_until_idle()


# Answers of which only the role comes, or nothing.


def test_a_role_is_no_first_token(gateway: Gateway, mended: Engines) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail("stall:after=1")
    found = ask_one(gateway.url, sampled())
    assert found.status == 504
    assert found.error is not None
    assert found.error["code"] == "engine_timeout"


@pytest.mark.parametrize("fault", ["stall:after=1", "late_error", "cut:after=1", "hang", "reset", "error:code=503"])
@pytest.mark.parametrize("leg", ["prefill-0", "decode-0"])
def test_an_answer_that_has_not_begun_is_tried_again(gateway: Gateway, mended: Engines, leg: str, fault: str) -> None:
    """While the others go on."""
    n = 3
    mended[leg].fail("slow:seconds=1,count=1", f"{fault}{',' if ':' in fault else ':'}count=1")
    reply = plain_http.post(gateway.url + CHAT, json=sampled(n), timeout=60)
    assert_whole(read_stream(reply.text, reply.headers), n)
    assert roles(reply.text) == dict.fromkeys(range(n), 1)


def test_a_prompt_of_several_that_is_tried_again_is_answered_as_ever(gateway: Gateway, mended: Engines) -> None:
    body = {"model": "tiny", "prompt": ["Once upon a time", "There was", "And then"], "max_tokens": TOKENS}
    body |= {"temperature": 0, "stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
    plain = ask_one(mended[PLAIN].url, body, COMPLETIONS)
    mended["decode-0"].fail("slow:seconds=1,count=1", "reset:count=1")
    found = ask_one(gateway.url, body, COMPLETIONS)
    assert found.done
    assert found.comparable == plain.comparable


# What the fleet has become by the time of a further try.


def begun_but_one(gateway: Gateway, body: dict[str, Any]) -> Iterator[str]:
    """A stream of two answers as it is read; one of them hangs in prefill-0, the other one is there."""
    gateway.engines["prefill-0"].fail("hang:count=1")
    with plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60) as reply:
        pieces = reply.iter_text()
        yield next(pieces)
        yield "".join(pieces)


@pytest.mark.parametrize("left", [("prefill-1", "decode-1"), ("decode-1",), ("prefill-1",)])
def test_a_further_try_goes_through_the_fleet_as_it_is(
    gateway: Gateway, mended: Engines, left: tuple[str, ...]
) -> None:
    stream = begun_but_one(gateway, sampled())
    text = next(stream)
    gateway.use(*left)
    mended["prefill-0"].kill()
    text += next(stream)
    assert_whole(read_stream(text, httpx.Headers()))
    assert roles(text) == {0: 1, 1: 1}


def test_nobody_is_left_for_a_further_try(gateway: Gateway, mended: Engines) -> None:
    stream = begun_but_one(gateway, sampled())
    text = next(stream)
    gateway.use()
    mended["prefill-0"].kill()
    found = read_stream(text + next(stream), httpx.Headers())
    assert found.done
    assert found.error is not None
    assert found.error["code"] == "stream_interrupted"


def test_the_client_goes_away_while_an_answer_is_awaited(gateway: Gateway) -> None:
    stream = begun_but_one(gateway, sampled())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    gateway.wait_until_idle()
