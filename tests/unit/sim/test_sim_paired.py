"""The paired dialects between processes: P and D at the same time, joined by an id at P's bootstrap server."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_legs import CLIENT, Engine, Engines, chat_body, eventually, idle, image, kv_flags, text, unread

CHAT = "/v1/chat/completions"


class Pair(NamedTuple):
    prefill: Engine
    decode: Engine
    plain: Engine
    fields: Callable[[Engine, int], tuple[dict[str, Any], dict[str, Any]]]
    """What P's and D's legs are given to meet at this prefill engine; several ids for several prompts."""
    pool: ThreadPoolExecutor

    def send(self, engine: Engine, body: dict[str, Any], path: str = CHAT) -> Any:
        return self.pool.submit(CLIENT.post, engine.url + path, json=body)

    def legs(self, body: dict[str, Any], *, decode_first: bool = False, **other: Any) -> list[httpx.Response]:
        """P's and D's answers, D's request sent when it is certain to come first or second; `other` is P's own."""
        for_prefill, for_decode = self.fields(self.prefill, 1)
        p_body = {**body, **other, "max_tokens": 1, "min_tokens": 1, **for_prefill}
        d_body = {**body, **for_decode}
        if decode_first:
            second = self.send(self.decode, d_body)
            eventually(lambda: self.prefill.state()["waiting_for_offers"] == 1)
            return [self.send(self.prefill, p_body).result(60), second.result(60)]
        first = self.send(self.prefill, p_body)
        eventually(lambda: self.prefill.state()["offers"] == 1)
        second = self.send(self.decode, d_body)
        return [first.result(60), second.result(60)]


def transfer_fields(prefill: Engine, _prompts: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """vLLM's MooncakeConnector."""
    address = f"http://127.0.0.1:{prefill.state()['ports']['bootstrap']}"
    (entry,) = CLIENT.get(f"{address}/query").json().values()
    key = f"xfer-{uuid.uuid4()}"
    p_params = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": key}
    d_params = {"do_remote_decode": False, "do_remote_prefill": True, "transfer_id": key}
    d_params |= {"remote_bootstrap_addr": address, "remote_engine_id": entry["engine_id"]}
    return {"kv_transfer_params": p_params}, {"kv_transfer_params": d_params}


def room_fields(prefill: Engine, prompts: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """SGLang; lists where there are several prompts."""
    rooms = [random.getrandbits(63) for _ in range(prompts)]
    port = prefill.state()["ports"]["bootstrap"]
    fields: dict[str, Any] = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": rooms[0]}
    if prompts > 1:
        fields = {
            "bootstrap_host": ["127.0.0.1"] * prompts,
            "bootstrap_port": [port] * prompts,
            "bootstrap_room": rooms,
        }
    return fields, fields


VLLM = {"VLLM_MOONCAKE_BOOTSTRAP_PORT": "0"}
SGLANG_PREFILL = ("--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port", "0")
SGLANG_DECODE = ("--disaggregation-mode", "decode")


@pytest.fixture(scope="module")
def plain(engines: Engines) -> Engine:
    return engines.start()


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture(scope="module")
def mooncake(engines: Engines, plain: Engine, pool: ThreadPoolExecutor) -> Pair:
    producer = engines.start(*kv_flags("MooncakeConnector", "kv_producer"), environment=VLLM)
    consumer = engines.start(*kv_flags("MooncakeConnector", "kv_consumer"))
    return Pair(producer, consumer, plain, transfer_fields, pool)


@pytest.fixture(scope="module")
def sglang(engines: Engines, plain: Engine, pool: ThreadPoolExecutor) -> Pair:
    return Pair(engines.start(*SGLANG_PREFILL), engines.start(*SGLANG_DECODE), plain, room_fields, pool)


@pytest.fixture(params=["mooncake", "sglang"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(request.param)
    return found


def tokens(reply: httpx.Response) -> list[int]:
    assert reply.status_code == 200, reply.text
    ids: list[int] = reply.json()["choices"][0]["token_ids"]
    return ids


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.text(max_size=60).map(text), st.integers(0, 255).map(image)), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_pair_answers_as_one_engine_in_either_order(pair: Pair, content: Any, decode_first: bool) -> None:
    first, second = pair.legs(chat_body(content), decode_first=decode_first)
    assert tokens(second) == pair.plain.tokens(content)
    assert first.json()["usage"]["completion_tokens"] == 1
    assert first.json()["choices"][0]["finish_reason"] == "length"
    assert first.json()["kv_transfer_params"] is None
    for engine in pair[:2]:
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


def test_kv_of_another_prompt_changes_the_answer(pair: Pair) -> None:
    other = chat_body("what is the capital of Japan??")["messages"]
    _, second = pair.legs(chat_body("what is the capital of France?"), messages=other)
    assert tokens(second) == pair.plain.tokens("what is the capital of Japan??")


@pytest.mark.parametrize("fault", ["kv_drop", "kv_swap", "kv_stale"])
def test_spoiled_kv_changes_the_answer(pair: Pair, fault: str) -> None:
    pair.legs(chat_body("something else that came before"))
    content = f"a request whose KV is spoiled by {fault}"
    pair.decode.fault(f"{fault}:count=1")
    _, second = pair.legs(chat_body(content))
    assert tokens(second) != pair.plain.tokens(content)


def test_a_transfer_that_fails_is_500(pair: Pair) -> None:
    pair.decode.fault("kv_fail:count=1")
    _, second = pair.legs(chat_body("failing"))
    assert second.status_code == 500


def test_a_transfer_that_hangs_ends_with_its_client(pair: Pair) -> None:
    pair.decode.fault("kv_hang:count=1")
    for_prefill, for_decode = pair.fields(pair.prefill, 1)
    first = pair.send(pair.prefill, {**chat_body("hangs"), "max_tokens": 1, "min_tokens": 1, **for_prefill})
    with unread(pair.decode, {**chat_body("hangs"), **for_decode}):
        assert first.result(60).status_code == 200
        eventually(lambda: not pair.decode.get("/sim/faults").json()["faults"])
        assert pair.decode.state()["waiting_for_kv"] == 1
    eventually(lambda: idle(pair.decode))


def test_a_push_that_is_lost_leaves_decode_waiting(pair: Pair) -> None:
    pair.prefill.fault("kv_push_lost:count=1")
    for_prefill, for_decode = pair.fields(pair.prefill, 1)
    with unread(pair.decode, {**chat_body("lost"), **for_decode}):
        eventually(lambda: pair.decode.state()["waiting_for_kv"] == 1)
        eventually(lambda: not pair.prefill.get("/sim/faults").json()["faults"])
        if pair.fields is transfer_fields:
            assert tokens(pair.send(pair.prefill, {**chat_body("lost"), "max_tokens": 1, **for_prefill}).result(60))
        assert pair.decode.state()["waiting_for_kv"] == 1
    eventually(lambda: idle(pair.decode))


def test_a_decode_client_that_leaves_frees_what_waits_on_both_sides(pair: Pair) -> None:
    _, for_decode = pair.fields(pair.prefill, 1)
    with unread(pair.decode, {**chat_body("never mind"), **for_decode}):
        eventually(lambda: pair.prefill.state()["waiting_for_offers"] == 1)
    eventually(lambda: idle(pair.decode))
    eventually(lambda: pair.prefill.state()["waiting_for_offers"] == 0)


def test_a_prefill_engine_that_does_not_fit_is_refused(pair: Pair, engines: Engines) -> None:
    flags = SGLANG_PREFILL if pair.fields is room_fields else kv_flags("MooncakeConnector", "kv_producer")
    odd = engines.start(*flags, "--block-size", "32", environment=VLLM)
    _, for_decode = pair.fields(odd, 1)
    assert pair.send(pair.decode, {**chat_body("misfit"), **for_decode}).result(60).status_code == 500


def test_a_bootstrap_server_that_is_not_there(pair: Pair) -> None:
    _, for_decode = pair.fields(pair.prefill, 1)
    if pair.fields is room_fields:
        for_decode["bootstrap_port"] = 1
    else:
        for_decode["kv_transfer_params"]["remote_bootstrap_addr"] = "http://127.0.0.1:1"
    assert pair.send(pair.decode, {**chat_body("nobody"), **for_decode}).result(60).status_code == 500


# What is vLLM's alone.


def test_the_bootstrap_server_knows_each_rank(mooncake: Pair) -> None:
    address = f"http://127.0.0.1:{mooncake.prefill.state()['ports']['bootstrap']}"
    reply = CLIENT.get(f"{address}/query").json()
    assert list(reply) == ["0"]
    assert set(reply["0"]) == {"engine_id", "worker_addr"}
    side_channel = mooncake.prefill.state()["ports"]["side_channel"]
    assert reply["0"]["worker_addr"] == {"0": {"0": f"tcp://127.0.0.1:{side_channel}"}}
    assert CLIENT.get(f"{address}/nothing").status_code == 404


def test_blocks_nobody_comes_for_are_kept_until_time_is_up(engines: Engines, mooncake: Pair) -> None:
    hasty = engines.start(
        *kv_flags("MooncakeConnector", "kv_producer"),
        environment={**VLLM, "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": "3"},
    )
    for_prefill, for_decode = transfer_fields(hasty, 1)
    body = chat_body("kept")
    assert mooncake.send(hasty, {**body, "max_tokens": 1, "min_tokens": 1, **for_prefill}).result(60).status_code == 200
    assert hasty.state()["offers"] == 1
    eventually(lambda: idle(hasty))
    assert mooncake.send(mooncake.decode, {**body, **for_decode}).result(60).status_code == 500


def test_prefill_that_ends_otherwise_than_by_length_keeps_nothing(mooncake: Pair) -> None:
    body = chat_body("stops at once", max_tokens=8, stop_token_ids=list(range(256)))
    for_prefill, _ = transfer_fields(mooncake.prefill, 1)
    before = mooncake.prefill.state()
    reply = mooncake.send(mooncake.prefill, {**body, **for_prefill}).result(60)
    assert reply.json()["choices"][0]["finish_reason"] == "stop"
    eventually(lambda: mooncake.prefill.state() == before)


@pytest.mark.parametrize("role", ["kv_producer", "kv_consumer"])
def test_a_leg_for_the_other_role_ends_the_engine(engines: Engines, role: str) -> None:
    engine = engines.start(*kv_flags("MooncakeConnector", role), environment=VLLM)
    wanted = {"do_remote_prefill": role == "kv_producer", "do_remote_decode": role == "kv_consumer", "transfer_id": "x"}
    assert engine.chat("wrong", kv_transfer_params=wanted).status_code == 500
    assert engine.get("/health").status_code == 503


def test_decode_with_incomplete_parameters_computes_by_itself(mooncake: Pair) -> None:
    params = {"do_remote_prefill": True, "transfer_id": "xfer-1"}
    assert mooncake.decode.tokens("alone", kv_transfer_params=params) == mooncake.plain.tokens("alone")


# What is SGLang's alone.


def test_sglangs_command_line_is_taken(engines: Engines) -> None:
    engine = engines.start("--model-path", "path", "--disaggregation-transfer-backend", "mooncake", *SGLANG_DECODE)
    assert engine.get("/health").status_code == 200


def test_a_request_without_a_room_is_refused(sglang: Pair) -> None:
    for engine in sglang[:2]:
        reply = engine.chat("no room")
        assert reply.status_code == 400
        assert "without bootstrap room id" in reply.json()["error"]["message"]
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


def test_several_prompts_have_a_room_each(sglang: Pair) -> None:
    body = {"model": "sim-model", "prompt": ["one prompt", "another!", "third"], "temperature": 0, "max_tokens": 12}
    body["return_token_ids"] = True
    for_prefill, for_decode = room_fields(sglang.prefill, 3)
    sent = [
        sglang.send(sglang.prefill, {**body, **for_prefill}, "/v1/completions"),
        sglang.send(sglang.decode, {**body, **for_decode}, "/v1/completions"),
    ]
    prefilled, decoded = (future.result(60).json()["choices"] for future in sent)
    expected = sglang.plain.post("/v1/completions", body).json()["choices"]
    assert [choice["token_ids"] for choice in decoded] == [choice["token_ids"] for choice in expected]
    assert [len(choice["token_ids"]) for choice in prefilled] == [1, 1, 1]


def test_prefill_answers_with_one_token_once_decode_has_its_kv(sglang: Pair) -> None:
    for_prefill, for_decode = room_fields(sglang.prefill, 1)
    first = sglang.send(sglang.prefill, {**chat_body("one token"), **for_prefill})
    eventually(lambda: sglang.prefill.state()["offers"] == 1)
    assert not first.done()
    second = sglang.send(sglang.decode, {**chat_body("one token"), **for_decode})
    assert tokens(second.result(60))[:1] == tokens(first.result(60))


def test_prefill_that_nobody_comes_for_fails_in_time(engines: Engines, sglang: Pair) -> None:
    hasty = engines.start(*SGLANG_PREFILL, environment={"SGLANG_DISAGGREGATION_WAITING_TIMEOUT": "0.2"})
    for_prefill, _ = room_fields(hasty, 1)
    assert sglang.send(hasty, {**chat_body("nobody"), **for_prefill}).result(60).status_code == 500
    eventually(lambda: idle(hasty))


def test_a_prefill_client_that_leaves_takes_its_offer_along(sglang: Pair) -> None:
    for_prefill, _ = room_fields(sglang.prefill, 1)
    with unread(sglang.prefill, {**chat_body("leaves"), **for_prefill}):
        eventually(lambda: sglang.prefill.state()["offers"] == 1)
    eventually(lambda: idle(sglang.prefill))
