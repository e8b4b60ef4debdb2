"""The callback dialect between processes: D first, D calls the gateway back, P writes into D's blocks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from callback_gateway import CallbackGateway, prefill_leg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_legs import Engine, Engines, chat_body, eventually, idle, image, kv_flags, text, unread


class Pair(NamedTuple):
    prefill: Engine
    decode: Engine
    plain: Engine
    gateway: CallbackGateway

    def tokens(self, content: Any, **fields: Any) -> list[int]:
        reply = self.gateway.through(self.prefill, self.decode, chat_body(content, **fields))
        assert reply.status_code == 200, reply.text
        ids: list[int] = reply.json()["choices"][0]["token_ids"]
        return ids


@pytest.fixture(scope="module")
def pair(engines: Engines) -> Iterator[Pair]:
    producer = engines.start(*kv_flags("MooncakeLayerwiseConnector", "kv_producer"))
    consumer = engines.start(*kv_flags("MooncakeLayerwiseConnector", "kv_consumer"))
    with CallbackGateway() as gateway:
        yield Pair(producer, consumer, engines.start(), gateway)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.text(max_size=60).map(text), st.integers(0, 255).map(image)), min_size=1, max_size=4))
def test_the_pair_answers_as_one_engine(pair: Pair, content: list[dict[str, Any]]) -> None:
    assert pair.tokens(content) == pair.plain.tokens(content)


def test_the_callback_says_where_decode_waits(pair: Pair) -> None:
    name = uuid.uuid4().hex
    pair.gateway.bodies.clear()
    reply = pair.gateway.decode(pair.decode, "/v1/chat/completions", chat_body("where are you?"), name)
    eventually(lambda: bool(pair.gateway.bodies))
    (body,) = pair.gateway.bodies
    assert body["request_id"] == f"chatcmpl-{name}"
    assert set(body) == {
        "token_ids", "request_id", "do_remote_prefill", "do_remote_decode", "remote_block_ids", "remote_block_size",
        "remote_engine_id", "remote_host", "remote_port", "remote_tp_size", "remote_pcp_size", "remote_dcp_size",
        "remote_cached_tokens",
    }  # fmt: skip
    assert body["do_remote_decode"] is True
    assert body["do_remote_prefill"] is False
    assert body["remote_block_size"] == [16]
    assert body["remote_port"] == pair.decode.state()["ports"]["side_channel"]
    assert pair.decode.state()["waiting_for_kv"] == 1
    assert not reply.done()
    prefilled = prefill_leg(pair.prefill, chat_body("where are you?"), {"": body}, name)
    assert prefilled.status_code == 200
    assert prefilled.json()["usage"]["completion_tokens"] == 1
    assert prefilled.json()["kv_transfer_params"] is None
    assert reply.result(60).json()["choices"][0]["token_ids"] == pair.plain.tokens("where are you?")
    for engine in pair[:2]:
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


@pytest.mark.parametrize("status", [200, 404, 502])
def test_what_the_callback_is_answered_with_is_not_looked_at(pair: Pair, status: int) -> None:
    name = uuid.uuid4().hex
    pair.gateway.bodies.clear()
    pair.gateway.prefill = lambda body: status
    reply = pair.gateway.decode(pair.decode, "/v1/chat/completions", chat_body(f"status {status}"), name)
    eventually(lambda: pair.decode.state()["transfers"] == 0 and bool(pair.gateway.bodies))
    assert pair.decode.state()["waiting_for_kv"] == 1
    prefill_leg(pair.prefill, chat_body(f"status {status}"), {"": pair.gateway.bodies[0]}, name)
    assert reply.result(60).json()["choices"][0]["token_ids"] == pair.plain.tokens(f"status {status}")


def test_several_prompts_call_back_each_and_are_prefilled_as_one(pair: Pair) -> None:
    prompts = ["the first prompt", "a second one, longer", "third"]
    body = {"model": "sim-model", "prompt": prompts, "temperature": 0, "max_tokens": 12, "return_token_ids": True}
    pair.gateway.bodies.clear()
    reply = pair.gateway.through(pair.prefill, pair.decode, body, path="/v1/completions", prompts=3).json()
    expected = pair.plain.post("/v1/completions", body).json()
    assert [c["token_ids"] for c in reply["choices"]] == [c["token_ids"] for c in expected["choices"]]
    names = sorted(callback["request_id"] for callback in pair.gateway.bodies)
    assert [name.rsplit("-", 1)[1] for name in names] == ["0", "1", "2"]


def test_each_of_several_answers_calls_back_as_a_child(pair: Pair) -> None:
    name = uuid.uuid4().hex
    body = chat_body("two answers", n=2, temperature=1, seed=3)
    pair.gateway.bodies.clear()
    pair.gateway.prefill = lambda callback: (
        prefill_leg(pair.prefill, {**body, "n": 1}, {"": callback}, name).status_code
    )
    reply = pair.gateway.decode(pair.decode, "/v1/chat/completions", body, name).result(60).json()
    assert sorted(callback["request_id"] for callback in pair.gateway.bodies) == [
        f"0_chatcmpl-{name}",
        f"1_chatcmpl-{name}",
    ]
    expected = pair.plain.post("/v1/chat/completions", body).json()
    assert [c["token_ids"] for c in reply["choices"]] == [c["token_ids"] for c in expected["choices"]]


def test_a_prompt_that_the_batch_does_not_name_is_refused(pair: Pair) -> None:
    params = {"do_remote_decode": True, "batch_kv_transfer_params": {"cmpl-somebody-0": {}}}
    reply = pair.prefill.post("/v1/completions", {"prompt": "x", "max_tokens": 1, "kv_transfer_params": params})
    assert reply.status_code == 500


def test_kv_of_another_prompt_changes_the_answer(pair: Pair) -> None:
    name = uuid.uuid4().hex
    other = chat_body("what is the capital of Japan??")
    pair.gateway.prefill = lambda body: prefill_leg(pair.prefill, other, {"": body}, name).status_code
    reply = pair.gateway.decode(pair.decode, "/v1/chat/completions", chat_body("what is the capital of France?"), name)
    assert reply.result(60).json()["choices"][0]["token_ids"] == pair.plain.tokens("what is the capital of Japan??")


@pytest.mark.parametrize("fault", ["kv_drop", "kv_swap", "kv_stale"])
def test_spoiled_kv_changes_the_answer(pair: Pair, fault: str) -> None:
    pair.tokens("something else that came before")
    content = f"a request whose KV is spoiled by {fault}"
    pair.decode.fault(f"{fault}:count=1")
    assert pair.tokens(content) != pair.plain.tokens(content)


def test_a_prefill_engine_that_does_not_fit_is_refused(pair: Pair, engines: Engines) -> None:
    odd = engines.start(*kv_flags("MooncakeLayerwiseConnector", "kv_producer"), "--block-size", "32")
    name = uuid.uuid4().hex
    statuses: list[int] = []

    def prefill(callback: dict[str, Any]) -> int:
        statuses.append(prefill_leg(odd, chat_body("misfit"), {"": callback}, name).status_code)
        return 502

    pair.gateway.prefill = prefill
    reply = pair.gateway.decode(pair.decode, "/v1/chat/completions", chat_body("misfit"), name)
    eventually(lambda: statuses == [500])
    assert pair.decode.state()["waiting_for_kv"] == 1
    assert not reply.done()
    prefill_leg(pair.prefill, chat_body("misfit"), {"": pair.gateway.bodies[-1]}, name)
    assert reply.result(60).json()["choices"][0]["token_ids"] == pair.plain.tokens("misfit")


def test_a_virtual_request_calls_nobody(pair: Pair) -> None:
    pair.gateway.bodies.clear()
    reply = pair.gateway.decode(
        pair.decode, "/v1/chat/completions", chat_body("warm up"), uuid.uuid4().hex, do_virtual=True
    )
    assert reply.result(60).status_code == 200
    assert pair.gateway.bodies == []


def test_a_client_that_leaves_frees_what_waits(pair: Pair) -> None:
    pair.decode.fault("callback_never:count=1")
    params = {"do_remote_prefill": True, "do_remote_decode": False, "metaserver": pair.gateway.url}
    body = chat_body("never mind", kv_transfer_params=params)
    with unread(pair.decode, body):
        eventually(lambda: pair.decode.state()["waiting_for_kv"] == 1)
    eventually(lambda: idle(pair.decode))


def test_callbacks_twice_late_and_of_an_unknown_id(pair: Pair) -> None:
    content = "twice"
    pair.decode.fault("callback_twice:count=1")
    pair.gateway.bodies.clear()
    assert pair.tokens(content) == pair.plain.tokens(content)
    eventually(lambda: len(pair.gateway.bodies) == 2)
    assert pair.gateway.bodies[0] == pair.gateway.bodies[1]
    pair.decode.fault("callback_late:count=1,seconds=0.05")
    assert pair.tokens(content) == pair.plain.tokens(content)
    pair.decode.fault("callback_unknown:count=1")
    pair.gateway.bodies.clear()
    name = uuid.uuid4().hex
    body = chat_body("unknown", stream=True)
    params = {"do_remote_prefill": True, "do_remote_decode": False, "metaserver": pair.gateway.url}
    pair.gateway.prefill = lambda callback: 404
    with unread(pair.decode, {**body, "kv_transfer_params": params}, name):
        eventually(lambda: len(pair.gateway.bodies) == 1)
        assert pair.gateway.bodies[0]["request_id"] != f"chatcmpl-{name}"
        assert pair.decode.state()["waiting_for_kv"] == 1
    eventually(lambda: idle(pair.decode))


def test_a_push_that_is_lost_leaves_decode_waiting(pair: Pair) -> None:
    pair.prefill.fault("kv_push_lost:count=1")
    name = uuid.uuid4().hex
    statuses: list[int] = []

    def prefill(callback: dict[str, Any]) -> int:
        statuses.append(prefill_leg(pair.prefill, chat_body("lost"), {"": callback}, name).status_code)
        return 200

    pair.gateway.prefill = prefill
    params = {"do_remote_prefill": True, "do_remote_decode": False, "metaserver": pair.gateway.url}
    with unread(pair.decode, chat_body("lost", kv_transfer_params=params), name):
        eventually(lambda: statuses == [200] and pair.decode.state()["transfers"] == 0)
        assert pair.decode.state()["waiting_for_kv"] == 1
    for engine in pair[:2]:
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


def test_a_transfer_that_hangs_ends_with_the_clients(pair: Pair) -> None:
    pair.decode.fault("kv_hang:count=1")
    pair.gateway.bodies.clear()
    pair.gateway.prefill = lambda callback: 200
    params = {"do_remote_prefill": True, "do_remote_decode": False, "metaserver": pair.gateway.url}
    body = chat_body("hangs")
    with unread(pair.decode, {**body, "kv_transfer_params": params}):
        eventually(lambda: len(pair.gateway.bodies) == 1)
        with unread(pair.prefill, {**body, "max_tokens": 1, "kv_transfer_params": pair.gateway.bodies[0]}):
            eventually(lambda: not pair.decode.get("/sim/faults").json()["faults"])
            assert pair.prefill.state()["leases"] == 1
    for engine in pair[:2]:
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


def test_a_transfer_that_fails_is_500_on_both_sides(pair: Pair) -> None:
    pair.decode.fault("kv_fail:count=1")
    name = uuid.uuid4().hex
    statuses: list[int] = []

    def prefill(callback: dict[str, Any]) -> int:
        statuses.append(prefill_leg(pair.prefill, chat_body("failing"), {"": callback}, name).status_code)
        return 502

    pair.gateway.prefill = prefill
    reply = pair.gateway.decode(pair.decode, "/v1/chat/completions", chat_body("failing"), name)
    assert reply.result(60).status_code == 500
    eventually(lambda: statuses == [500])
