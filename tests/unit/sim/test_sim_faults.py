"""Faults: each does what it says, as often as it says, and the engine goes on."""

from __future__ import annotations

import json
import random
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_legs import Engine, Engines, chat_body, eventually

from pymotor.engines.sim.faults import Fault, Faults, Stage, parse_fault


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Engine:
    return engines.start()


def raw_stream(engine: Engine, **fields: Any) -> tuple[list[bytes], bool]:
    """The reads of one streamed answer from a bare socket, and whether it ended by a reset."""
    address = urlsplit(engine.url)
    body = json.dumps(chat_body("raw", stream=True, **fields)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    reads = []
    with socket.create_connection((address.hostname, address.port or 0), timeout=60) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        try:
            while data := connection.recv(65536):
                reads.append(data)
        except ConnectionResetError:
            return reads, True
    return reads, False


def test_error(engine: Engine) -> None:
    engine.fault("error:code=503,count=2")
    assert [engine.chat("x").status_code for _ in range(3)] == [503, 503, 200]


def test_a_path_narrows_a_fault(engine: Engine) -> None:
    engine.fault("error:path=/v1/completions,count=1")
    assert engine.chat("x").status_code == 200
    assert engine.post("/v1/completions", {"prompt": "x"}).status_code == 500


def test_late_error(engine: Engine) -> None:
    engine.fault("late_error:count=2")
    response = engine.chat("x", stream=True)
    assert response.status_code == 200
    events = response.text.split("\n\n")
    assert '"role":"assistant"' in events[0]
    assert "error" in json.loads(events[1].removeprefix("data: "))
    assert engine.chat("x").status_code == 500


def test_reset_and_cut(engine: Engine) -> None:
    engine.fault("reset:count=1")
    with pytest.raises(httpx.ReadError):
        engine.chat("x")
    engine.fault("cut:after=3,count=1")
    reads, reset = raw_stream(engine, ignore_eos=True)
    assert reset
    assert b"".join(reads).count(b"data: ") == 3
    engine.fault("cut:count=1")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        engine.chat("x")


@pytest.mark.parametrize("fault", ["hang", "slow:seconds=600", "stall:after=2"])
def test_silence_ends_with_the_client(engine: Engine, fault: str) -> None:
    engine.fault(f"{fault},count=1" if ":" in fault else f"{fault}:count=1")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(engine.url + "/v1/chat/completions", json=chat_body("x", stream=True), timeout=2)
    eventually(lambda: engine.get("/load").json() == {"server_load": 0})
    eventually(lambda: engine.state()["blocks_used"] == 0)
    assert engine.chat("x").status_code == 200


def test_split_and_merged_events_are_the_same_stream(engine: Engine) -> None:
    def payload(reads: list[bytes]) -> bytes:
        """The stream without chunked framing, ids and times."""
        head, _, body = b"".join(reads).partition(b"\r\n\r\n")
        assert b"200 OK" in head
        data = b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            data, body = data + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return b"\n\n".join(
            json.dumps(json.loads(event[6:])["choices"]).encode() if event.startswith(b"data: {") else event
            for event in data.split(b"\n\n")
        )

    plain, _ = raw_stream(engine)
    engine.fault("split:bytes=5,count=1")
    split, _ = raw_stream(engine)
    engine.fault("merge:events=4,count=1")
    merged, _ = raw_stream(engine)
    assert payload(plain) == payload(split) == payload(merged)
    assert b"".join(split).count(b"\r\n5\r\n") > 100
    assert b"".join(merged).count(b"\r\n") < b"".join(plain).count(b"\r\n")


def test_recomputed(engine: Engine) -> None:
    engine.fault("recomputed:after=4,count=1")
    choice = engine.chat("x", ignore_eos=True).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "recomputed")
    assert len(choice["token_ids"]) == 4
    assert choice["token_ids"] == engine.tokens("x", ignore_eos=True)[:4]
    eventually(lambda: engine.state()["blocks_used"] == 0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_recomputed_stream_ends_with_an_empty_piece_after_its_token_ids(engine: Engine, path: str) -> None:
    body = {**chat_body("x", ignore_eos=True), "prompt": "x"}
    expected = engine.post(path, body).json()["choices"][0]
    engine.fault("recomputed:after=4,count=2")
    whole = engine.post(path, body).json()
    (choice,) = whole["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "recomputed")
    assert choice["token_ids"] == expected["token_ids"][:4]
    assert whole["usage"]["completion_tokens"] == 4
    reply = engine.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert reply.text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: {")]
    pieces = [event["choices"][0] for event in events if event["choices"]]
    ids = [token for piece in pieces for token in piece.get("token_ids") or []]
    assert ids == expected["token_ids"][:4]
    assert (pieces[-1]["finish_reason"], pieces[-1]["stop_reason"]) == ("stop", "recomputed")
    assert pieces[-1].get("text", pieces[-1].get("delta", {}).get("content")) == ""
    assert events[-1]["usage"]["completion_tokens"] == 4
    eventually(lambda: engine.state()["blocks_used"] == 0)


def test_preempt(engine: Engine) -> None:
    expected = engine.tokens("preempt me", max_tokens=60, ignore_eos=True)
    before = engine.state()["preemptions"]
    engine.fault("preempt:count=3,probability=0.2")
    assert engine.tokens("preempt me", max_tokens=60, ignore_eos=True) == expected
    assert engine.state()["preemptions"] > before
    engine.fault("preempt")
    assert engine.get("/sim/faults").json()["faults"]
    httpx.delete(engine.url + "/sim/faults", timeout=60)
    assert engine.get("/sim/faults").json() == {"faults": []}


def test_refuse(engines: Engines) -> None:
    closing = engines.start("--sim-fault", "refuse:seconds=4,count=1")
    with pytest.raises(httpx.TransportError):
        httpx.post(closing.url + "/v1/chat/completions", json=chat_body("x"), timeout=60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(closing.url + "/health", timeout=60)

    def answers() -> bool:
        try:
            return httpx.get(closing.url + "/health", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers)


def test_exit_and_die(engines: Engines) -> None:
    leaving = engines.start("--sim-fault", "exit:after=2")
    reads, _ = raw_stream(leaving, ignore_eos=True)
    assert b"".join(reads).count(b"data: ") == 2
    assert leaving.process.wait(60) == 1
    dying = engines.start("--sim-fault", "die:count=1")
    assert dying.chat("x").status_code == 500
    assert dying.get("/health").status_code == 503
    assert dying.chat("x").status_code == 500


def test_control_is_only_served_when_asked_for(engine: Engine) -> None:
    response = engine.post("/sim/faults", {"faults": ["explode"]})
    assert response.status_code == 400
    assert "known: refuse, hang" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "specification", ["", "nothing", "slow:seconds", "slow:seconds=x", "slow:colour=1", "cut:after=-1"]
)
def test_wrong_specifications(specification: str) -> None:
    with pytest.raises(ValueError):
        parse_fault(specification)


@given(st.lists(st.tuples(st.sampled_from(["hang", "reset", "kv_drop"]), st.integers(0, 5)), max_size=6))
def test_each_fault_strikes_as_often_as_it_says(wanted: list[tuple[str, int]]) -> None:
    faults = Faults([Fault(kind, count=count) for kind, count in wanted], random.Random(1))
    struck: dict[str, int] = {}
    for _ in range(40):
        for stage in Stage:
            for kind in faults.take(stage, "/v1/completions"):
                struck[kind] = struck.get(kind, 0) + 1
    for kind in ("hang", "reset", "kv_drop"):
        assert struck.get(kind, 0) == sum(count for name, count in wanted if name == kind)
    assert faults.pending == []
