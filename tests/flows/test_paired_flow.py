"""Prefill and decode at the same time: by `transfer_id` (vLLM's MooncakeConnector), by `bootstrap_room` (SGLang)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import plain_http
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway, Role
from handing_fleets import LEGS, ask_fleet, assert_all_equal, assert_nothing_left, legs_of, prompts, several_answers
from images import text_chat, vision_chat
from random_requests import some

CONNECTORS = ("MooncakeConnector", "sglang-mooncake")
QUICK = {"exception_config": {"first_token_timeout": 4, "retry_delay": 0.01}}


@pytest.fixture(scope="module", params=CONNECTORS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers before two prefill and two decode engines, and an encoder where prefill reads embeddings."""
    roles = {Role.PREFILL: 2, Role.DECODE: 2}
    if request.param == "MooncakeConnector":
        roles[Role.ENCODE] = 1
    with ExitStack() as opened:
        engines = Engines(tmp_path_factory.mktemp(request.param), roles, kv_connector=request.param)
        opened.enter_context(engines)
        yield opened.enter_context(Gateway(engines, config=QUICK, workers=2))


@pytest.fixture
def engines(gateway: Gateway) -> Iterator[Engines]:
    """Those of the fleet, mended after the test."""
    yield gateway.engines
    gateway.engines.restore()


def test_random_requests_get_the_plain_engines_answers(gateway: Gateway) -> None:
    assert_all_equal(gateway, some(80))


def test_media(gateway: Gateway) -> None:
    answer = ask_one(gateway.url, vision_chat(7003, 7004, text="What is the difference? " * 10))
    assert {"decode"} <= legs_of(answer) <= {"encode", *LEGS}
    assert ("encode" in legs_of(answer)) == ("encode-0" in gateway.engines.by_name)
    assert_nothing_left(gateway)


def test_several_prompts_and_answers(gateway: Gateway, engines: Engines) -> None:
    assert_all_equal(gateway, several_answers(engines), at_once=4)


def test_several_prompts_are_one_leg_where_rooms_are(gateway: Gateway, engines: Engines) -> None:
    asked = prompts(5)
    answer = ask_one(gateway.url, asked.body, asked.path)
    assert len(answer.choices) == 5
    decodes = [leg for leg, _ in answer.legs if leg == "decode"]
    assert len(decodes) == (1 if engines["prefill-0"].kv_connector.startswith("sglang") else 5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize("fault", ["error:code=500", "reset", "error:code=503"])
def test_an_endpoint_that_fails(gateway: Gateway, engines: Engines, role: str, fault: str, stream: bool) -> None:
    """The other one answers; the leg that waits for the failed one is closed."""
    engines[f"{role}-0"].fail(fault)
    for number in range(3):
        assert ask_fleet(gateway, f"{role} {fault} {stream} {number}", stream=stream).status == 200
    assert_nothing_left(gateway)


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_nobody_listens_at_one_endpoint(gateway: Gateway, engines: Engines, role: str) -> None:
    engines[f"{role}-0"].kill()
    for number in range(3):
        assert ask_fleet(gateway, f"{role} is gone {number}").status == 200
    assert_nothing_left(gateway)


def test_a_prefill_that_hangs(gateway: Gateway, engines: Engines) -> None:
    engines["prefill-0"].fail("hang")
    for number in range(2):
        assert ask_fleet(gateway, f"prefill hangs {number}").status == 200
    assert_nothing_left(gateway)


def test_a_prefill_that_was_started_anew(gateway: Gateway, engines: Engines) -> None:
    """It has another engine id than the one the gateway has asked for."""
    for name in ("prefill-0", "prefill-1"):
        assert ask_fleet(gateway, f"before {name}").status == 200
    for name in ("prefill-0", "prefill-1"):
        engines[name].kill()
        engines[name].identity = f"{name}-anew"
        engines[name].start()
        engines[name].wait()
    gateway.use(*gateway.names)
    for number in range(4):
        assert ask_fleet(gateway, f"after the restart {number}").status == 200
    assert_nothing_left(gateway)


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_whole_stage_that_fails(gateway: Gateway, engines: Engines, role: str) -> None:
    for number in range(2):
        engines[f"{role}-{number}"].fail("error:code=500")
    assert ask_fleet(gateway, f"no {role} works").status == 502
    assert_nothing_left(gateway)


def test_a_request_that_decode_refuses(gateway: Gateway, engines: Engines) -> None:
    """Prefill, which waits for decode, is closed."""
    for number in range(2):
        engines[f"decode-{number}"].fail("error:code=400")
    for number in range(6):
        assert ask_fleet(gateway, f"refused {number}").status == 400
    assert_nothing_left(gateway)


def test_a_client_that_leaves(gateway: Gateway, engines: Engines) -> None:
    for number in range(2):
        engines[f"prefill-{number}"].fail("hang")
    with pytest.raises(httpx.TimeoutException):
        plain_http.post(f"{gateway.url}/v1/chat/completions", json=text_chat("I will not wait"), timeout=0.3)
    assert_nothing_left(gateway)
