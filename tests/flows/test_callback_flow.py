"""Decode first, which calls back (MooncakeLayerwiseConnector): equal answers, and an end to each failure."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import plain_http
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway, Role
from handing_fleets import LEGS, ask_fleet, assert_all_equal, assert_nothing_left, legs_of, prompts, several_answers
from images import text_chat, vision_chat
from processes import wait_until
from random_requests import some

CONNECTOR = "MooncakeLayerwiseConnector"
QUICK = {"exception_config": {"first_token_timeout": 4, "retry_delay": 0.01}}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    roles = {Role.ENCODE: 1, Role.PREFILL: 2, Role.DECODE: 2}
    with Engines(tmp_path_factory.mktemp("callback"), roles, kv_connector=CONNECTOR) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engines: Engines) -> Iterator[Gateway]:
    """Two workers, so that callbacks have to find theirs."""
    with Gateway(engines, config=QUICK, workers=2) as running:
        yield running


@pytest.fixture(autouse=True)
def mended(engines: Engines) -> Iterator[None]:
    yield
    engines.restore()


def test_random_requests_get_the_plain_engines_answers(gateway: Gateway) -> None:
    assert_all_equal(gateway, some(80))


def test_media_go_through_encode(gateway: Gateway) -> None:
    answer = ask_one(gateway.url, vision_chat(7003, 7004, text="What is the difference? " * 10))
    assert {"encode", "decode"} <= legs_of(answer) <= {"encode", *LEGS}
    assert_nothing_left(gateway)


def test_several_prompts_and_answers(gateway: Gateway, engines: Engines) -> None:
    assert_all_equal(gateway, several_answers(engines), at_once=4)


def test_several_prompts_are_one_leg_to_each(gateway: Gateway) -> None:
    asked = prompts(5)
    answer = ask_one(gateway.url, asked.body, asked.path)
    assert [leg for leg, _ in answer.legs if leg == "decode"] == ["decode"]
    assert len(answer.choices) == 5


@pytest.mark.parametrize("fault", ["callback_twice", "callback_late:seconds=0.3"])
@pytest.mark.parametrize("stream", [False, True])
def test_callbacks_that_are_late_or_come_twice(gateway: Gateway, engines: Engines, fault: str, stream: bool) -> None:
    for name in ("decode-0", "decode-1"):
        engines[name].fail(fault)
    answer = ask_fleet(gateway, f"{fault} {stream}", stream=stream)
    assert answer.status == 200
    assert "decode" in legs_of(answer) <= LEGS
    assert_nothing_left(gateway)


@pytest.mark.parametrize("fault", ["callback_never", "callback_unknown"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_decode_that_never_calls_is_given_up(gateway: Gateway, engines: Engines, fault: str, stream: bool) -> None:
    """The other one answers; when neither calls, the client is told within the deadline."""
    engines["decode-0"].fail(fault)
    for _ in range(2):
        assert ask_fleet(gateway, f"{fault} {stream}", stream=stream).status == 200
    engines["decode-1"].fail(fault)
    answer = ask_fleet(gateway, "nobody calls", stream=stream)
    assert answer.status == 504
    assert answer.error is not None
    assert_nothing_left(gateway)


def test_another_prefill_while_decode_waits(gateway: Gateway, engines: Engines) -> None:
    """Nobody listens at one of two prefill endpoints: decode is asked once."""
    engines["prefill-0"].kill()
    before = gateway.count("pymotor_leg_failures_total", leg="decode")
    for number in range(4):
        answer = ask_fleet(gateway, f"Is anybody there? {number}")
        assert answer.status == 200
        assert [leg for leg in answer.legs if leg[0] == "decode"][1:] == []
    assert gateway.count("pymotor_leg_failures_total", leg="decode") == before
    assert_nothing_left(gateway)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["error:code=500", "reset", "error:code=503"])
def test_a_prefill_that_fails(gateway: Gateway, engines: Engines, fault: str, stream: bool) -> None:
    """The other one answers, whether decode has to be closed for that or not."""
    engines["prefill-0"].fail(fault)
    for number in range(3):
        assert ask_fleet(gateway, f"{fault} {stream} {number}", stream=stream).status == 200
    assert_nothing_left(gateway)


def test_kv_that_prefill_has_not_written(gateway: Gateway, engines: Engines) -> None:
    """Prefill says that all is well; decode waits. Another pair answers, because either may be to blame."""
    engines["prefill-0"].fail("kv_push_lost")
    for number in range(2):
        assert ask_fleet(gateway, f"never written {number}", stream=True).status == 200
    assert_nothing_left(gateway)


def test_no_prefill_left(gateway: Gateway, engines: Engines) -> None:
    for name in ("prefill-0", "prefill-1"):
        engines[name].fail("error:code=500")
    assert ask_fleet(gateway, "nobody computes this").status == 502
    assert_nothing_left(gateway)


def test_a_decode_that_dies_while_it_waits(gateway: Gateway, engines: Engines) -> None:
    for name in ("prefill-0", "prefill-1"):
        engines[name].fail("slow:seconds=0.5")
    engines["decode-0"].fail("reset")
    for number in range(3):
        assert ask_fleet(gateway, f"decode resets {number}").status == 200
    assert_nothing_left(gateway)


def test_a_client_that_leaves_while_decode_waits(gateway: Gateway, engines: Engines) -> None:
    for name in ("decode-0", "decode-1"):
        engines[name].fail("callback_never")
    body = text_chat("I will not wait")
    with pytest.raises(httpx.TimeoutException):
        plain_http.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=0.3)
    assert_nothing_left(gateway)


def test_a_callback_at_the_shared_port_reaches_its_worker(gateway: Gateway) -> None:
    """By the path alone: nobody waits for the id, so that the right worker says 404 in its own words."""
    paths = _callback_paths(gateway)
    assert {path.rsplit("/", 1)[1].partition(".")[0] for path in paths} == {"0", "1"}
    for path in paths:
        for _ in range(8):
            reply = plain_http.post(gateway.url + path, json={"request_id": "chatcmpl-nobody"}, timeout=60)
            assert reply.status_code == 404
            assert "no request with this request_id" in reply.json()["error"]["message"]
        stranger = path[:-1] + ("0" if path[-1] != "0" else "1")
        reply = plain_http.post(gateway.url + stranger, json={"request_id": "chatcmpl-nobody"}, timeout=60)
        assert reply.status_code == 404
        assert "nothing here" in reply.json()["error"]["message"]


def _callback_paths(gateway: Gateway) -> set[str]:
    """What decode engines are told, overheard by a server that stands in for one."""
    paths: set[str] = set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        name = "decode-0"
        former = gateway.engines[name].url
        gateway.engines[name].url = url
        gateway.use("prefill-0", name)
        try:
            while len(paths) < 2:
                paths.add(_overheard(gateway, listener))
        finally:
            gateway.engines[name].url = former
            gateway.use(*gateway.engines.fleet)
    return paths


def _overheard(gateway: Gateway, listener: socket.socket) -> str:
    target = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((target[0], int(target[1]))) as client:
        body = httpx.Request("POST", gateway.url, json=text_chat("overheard")).content
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while True:
            engine, _ = listener.accept()
            with engine:
                url = _callback_url(engine)
            if url:
                return url[url.index("/v1/") :]


def _callback_url(engine: socket.socket) -> str:
    """Where the engine at the other end is to call back; empty where it is asked for something else: its metrics."""
    engine.settimeout(60)
    received = b""
    while piece := engine.recv(65536):
        received += piece
        if received.startswith(b"GET"):
            break
        url, closed, _ = received.partition(b'"metaserver":"')[2].partition(b'"')
        if closed:
            return url.decode()
    return ""


def test_nobody_waits_at_the_end(gateway: Gateway) -> None:
    wait_until(lambda: all(load == (0.0, 0) for load in gateway.loads().values()), "the ledger is zero")
