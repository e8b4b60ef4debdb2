"""Where an engine publishes: what it answers, how it was planned, what is configured."""

from __future__ import annotations

import json

import pytest

from pymotor.fleet import Endpoint, KVEvents
from pymotor.kv_conductor.sources import (
    EventSource,
    SourceError,
    answered_sources,
    configured_sources,
    planned_sources,
)

EVENTS = {
    "enable_kv_cache_events": True,
    "publisher": "zmq",
    "endpoint": "tcp://*:5557",
    "replay_endpoint": "tcp://*:6667",
    "topic": "kv",
}


def endpoint(**fields: object) -> Endpoint:
    settings = {"id": "union-0/0", "url": "http://10.0.0.7:8000", **fields}
    return Endpoint(**settings)  # type: ignore[arg-type]


def source(rank: int, port: int, replay: int | None = None, topic: str = "kv", host: str = "10.0.0.7") -> EventSource:
    return EventSource(endpoint="union-0/0", rank=rank, host=host, port=port, replay_port=replay, topic=topic)


def answer(**ranks: object) -> bytes:
    return json.dumps({rank.lstrip("r"): one for rank, one in ranks.items()}).encode()


def test_of_an_answer_ports_count_and_hosts_do_not() -> None:
    told = answer(r1={**EVENTS, "endpoint": "tcp://10.9.9.9:5558", "replay_endpoint": None}, r0=EVENTS)
    assert answered_sources(endpoint(), told) == (source(0, 5557, 6667), source(1, 5558))
    told = answer(r0={**EVENTS, "endpoint": "tcp://[::]:5557", "more": 1})
    assert answered_sources(endpoint(url="http://[fd00::7]:8000"), told) == (source(0, 5557, 6667, host="fd00::7"),)


def test_an_engine_that_publishes_nothing() -> None:
    assert answered_sources(endpoint(), b"{}") == ()
    assert answered_sources(endpoint(), answer(r0={**EVENTS, "enable_kv_cache_events": False})) == ()
    assert answered_sources(endpoint(), answer(r0={**EVENTS, "publisher": "null"})) == ()


def test_a_server_of_one_rank_that_tells_of_all() -> None:
    told = answer(r0=EVENTS, r1={**EVENTS, "endpoint": "tcp://*:5558", "replay_endpoint": "tcp://*:6668"})
    assert answered_sources(endpoint(data_parallel_rank=1), told) == (source(1, 5558, 6668),)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        answer(rx=EVENTS),
        answer(r0={**EVENTS, "endpoint": "tcp://*"}),
        answer(r0={**EVENTS, "endpoint": "tcp://*:0"}),
        answer(r0={**EVENTS, "endpoint": "tcp://*:70000"}),
        answer(r0={**EVENTS, "replay_endpoint": "inproc://cache"}),
        answer(r0={**EVENTS, "endpoint": 5557}),
        json.dumps({str(rank): EVENTS for rank in range(1000)}).encode(),
    ],
)
def test_an_answer_that_cannot_be_used(told: bytes) -> None:
    with pytest.raises(SourceError):
        answered_sources(endpoint(), told)


def test_what_was_planned() -> None:
    events = (KVEvents(rank=1, port=5558, topic="kv"), KVEvents(rank=0, port=5557, replay_port=6667, topic="kv"))
    assert planned_sources(endpoint(kv_events=events)) == (source(0, 5557, 6667), source(1, 5558))
    assert planned_sources(endpoint()) == ()


def test_what_is_configured_counts_up_by_rank() -> None:
    options = {"kv_events_config": EVENTS}
    assert configured_sources(endpoint(), options, 2) == (source(0, 5557, 6667), source(1, 5558, 6668))
    assert configured_sources(endpoint(data_parallel_rank=3), options, 4) == (source(3, 5560, 6670),)
    assert configured_sources(endpoint(), {}, 1) == ()
    assert configured_sources(endpoint(), {"kv_events_config": {**EVENTS, "publisher": "null"}}, 1) == ()
    with pytest.raises(SourceError):
        configured_sources(endpoint(), {"kv_events_config": {**EVENTS, "endpoint": "tcp://*"}}, 1)
