"""KV events of a running engine: where they go, how they are written, and how they fail on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sim_legs import Engine, Engines, chat_body, eventually, image, text

from kv_event_subscriber import Message, Subscriber, replayed, source, subscribed
from pymotor.engines.sim.kv_events_config import of_rank, read_kv_events_config

LOCAL = {"enable_kv_cache_events": True, "endpoint": "tcp://*:0", "replay_endpoint": "tcp://127.0.0.1:0", "topic": "kv"}


def flags(**changes: Any) -> list[str]:
    return ["--kv-events-config", json.dumps(LOCAL | changes)]


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Engine:
    return engines.start(*flags())


@contextmanager
def following(engine: Engine) -> Iterator[Subscriber]:
    with subscribed(source(engine.url)["endpoint"], lambda: say(engine), b"kv") as subscriber:
        yield subscriber


count = iter(range(1_000_000))


def say(engine: Engine, **fields: Any) -> None:
    """A prompt of at least two blocks that nobody has said."""
    response = engine.chat(f"{next(count):<40}", max_tokens=1, **fields)
    assert response.status_code == 200, response.text


def replay_endpoint(engine: Engine) -> str:
    return f"tcp://127.0.0.1:{engine.state()['ports']['kv_replay']}"


def messages(subscriber: Subscriber, number: int) -> list[Message]:
    found = [subscriber.next() for _ in range(number)]
    return [message for message in found if message is not None]


def test_messages_are_numbered_and_carry_topic_time_and_rank(engine: Engine) -> None:
    with following(engine) as subscriber:
        for _ in range(3):
            say(engine)
        found = messages(subscriber, 3)
    first = found[0].sequence
    assert [(each.topic, each.sequence, each.rank) for each in found] == [(b"kv", first + n, 0) for n in range(3)]
    assert found[0].time < found[2].time
    assert all(event["type"] == "BlockStored" for each in found for event in each.events)


def test_numbers_begin_at_0_with_the_engine(engines: Engines) -> None:
    young = engines.start(*flags())
    say(young)
    say(young)
    again = replayed(replay_endpoint(young), 0)
    assert again is not None
    assert [each.sequence for each in again] == [0, 1]
    assert again[0].events[0]["parent_block_hash"] is None


def test_defaults_are_left_out(engine: Engine) -> None:
    with following(engine) as subscriber:
        say(engine)
        say(engine, session_id="mine")
        plain, named = (message.events[0] for message in messages(subscriber, 2))
    assert "session_id" not in plain
    assert named["session_id"] == "mine"
    assert plain["lora_id"] is None
    assert not {"locality", "ownership", "kv_cache_spec_sliding_window"} & set(plain)


def test_removed_and_cleared_are_told_with_the_next_step(engines: Engines) -> None:
    small = engines.start(*flags(), "--num-gpu-blocks-override", "8", "--max-model-len", "128")
    with following(small) as subscriber:
        for _ in range(3):
            say(small)
        told = [event for message in messages(subscriber, 3) for event in message.events]
        removed = [event for event in told if event["type"] == "BlockRemoved"]
        assert removed
        assert set(removed[0]) == {"type", "block_hashes", "medium", "group_idx"}
        assert small.post("/reset_prefix_cache", {}).status_code == 200
        assert subscriber.next(200) is None
        say(small)
        (message,) = messages(subscriber, 1)
        assert message.events[0] == {"type": "AllBlocksCleared"}


def test_the_older_form_is_arrays(engines: Engines) -> None:
    older = engines.start(*flags(), "--sim-kv-events-form", "array", "--lora-modules", "poems=/adapters/poems")
    with following(older) as subscriber:
        say(older)
        say(older, model="poems", cache_salt="pepper")
        plain, special = (message.events[0] for message in messages(subscriber, 2))
    name, hashes, parent, tokens, block_size, lora_id, medium, lora_name = plain
    assert (name, parent, block_size, lora_id, medium, lora_name) == ("BlockStored", None, 16, None, "GPU", None)
    assert len(tokens) == 16 * len(hashes)
    assert special[5:8] == [1, "GPU", "poems"]
    assert special[8][:2] == [["poems", "pepper"], ["poems"]]


def test_hashes_are_bytes_where_vllm_is_told_so(engines: Engines) -> None:
    told = engines.start(*flags(), environment={"VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "0"})
    with following(told) as subscriber:
        say(told)
        (message,) = messages(subscriber, 1)
    assert all(isinstance(block, bytes) for block in message.events[0]["block_hashes"])


def test_equal_blocks_have_equal_hashes_on_all_engines(engines: Engines, engine: Engine) -> None:
    other = engines.start(*flags())
    found = []
    for each in (engine, other):
        with following(each) as subscriber:
            assert each.chat([text("the same picture"), image(9)], max_tokens=1).status_code == 200
            (message,) = messages(subscriber, 1)
            found.append(message.events[0])
    assert found[0] == found[1]
    assert any(key for key in found[0]["extra_keys"])


def test_an_adapter_answers_under_its_name_and_shares_no_blocks(engines: Engines) -> None:
    tuned = engines.start("--lora-modules", "poems=/adapters/poems", '{"name": "songs", "path": "/adapters/songs"}')
    cards = {card["id"]: card for card in tuned.get("/v1/models").json()["data"]}
    assert cards["songs"]["root"] == "/adapters/songs"
    assert cards["songs"]["parent"] == "sim-model"

    def hits() -> float:
        lines = tuned.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total"))

    body = chat_body("x" * 64, max_tokens=1)
    for model, expected in (("sim-model", 0), ("poems", 0), ("songs", 0), ("poems", 80)):
        answer = tuned.post("/v1/chat/completions", {**body, "model": model})
        assert answer.json()["model"] == model
        assert hits() == expected
    assert tuned.post("/v1/chat/completions", {**body, "model": "prose"}).status_code == 404


def test_ports_are_shifted_by_the_rank(engines: Engines) -> None:
    ranked = engines.start(*flags(), "--data-parallel-rank", "3", "--data-parallel-size", "4")
    assert source(ranked.url, 3)["endpoint"].startswith("tcp://127.0.0.1:")
    assert of_rank("tcp://*:5557", 3) == "tcp://*:5560"
    assert of_rank("tcp://*:0", 3) == "tcp://*:0"
    with pytest.raises(ValueError, match="several ranks"):
        of_rank("ipc:///tmp/events", 1)


def test_without_events_there_is_no_source(engines: Engines) -> None:
    for disabled in ([], flags(enable_kv_cache_events=False), flags(publisher="null")):
        assert engines.start(*disabled).get("/kv_event_sources").json() == {}


def test_dotted_settings_are_heeded(engines: Engines) -> None:
    dotted = engines.start(*flags(), "--kv-events-config.topic", "other", "--kv_events_config.buffer_steps=1")
    said = source(dotted.url)
    assert (said["topic"], said["buffer_steps"], said["publisher"]) == ("other", 1, "zmq")
    say(dotted)
    say(dotted)
    again = replayed(replay_endpoint(dotted), 0)
    assert again is not None
    assert [each.sequence for each in again] == [1]


@pytest.mark.parametrize(
    ("config", "problem"),
    [({"publisher": "kafka"}, "publisher"), ({"buffer": 1}, "buffer"), ({"endpoint": "tcp://*:http"}, "http")],
)
def test_a_bad_setting_is_named(config: dict[str, Any], problem: str) -> None:
    command = [sys.executable, "-m", "pymotor", "sim-engine", "serve", "m", "--port", "0", *flags(**config)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert problem in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_publisher_is_null_unless_events_are_enabled() -> None:
    assert read_kv_events_config({}).publisher == "null"
    assert not read_kv_events_config({"publisher": "zmq"}).enabled


def test_dropped_messages_are_a_gap_that_replay_fills(engine: Engine) -> None:
    with following(engine) as subscriber:
        say(engine)
        (before,) = messages(subscriber, 1)
        engine.fault("kv_events_drop:count=2")
        for _ in range(3):
            say(engine)
        (after,) = messages(subscriber, 1)
        assert after.sequence == before.sequence + 3
        missing = replayed(replay_endpoint(engine), before.sequence + 1)
    assert missing is not None
    assert [each.sequence for each in missing] == [before.sequence + 1, before.sequence + 2, after.sequence]


def test_doubled_messages_have_one_number(engine: Engine) -> None:
    with following(engine) as subscriber:
        engine.fault("kv_events_twice:count=1")
        say(engine)
        say(engine)
        once, twice, other = messages(subscriber, 3)
    assert once == twice
    assert other.sequence == once.sequence + 1


def test_a_restarted_sequence_keeps_nothing(engine: Engine) -> None:
    with following(engine) as subscriber:
        engine.fault("kv_events_restart:count=1")
        say(engine)
        say(engine)
        found = messages(subscriber, 2)
    assert [each.sequence for each in found] == [0, 1]
    assert replayed(replay_endpoint(engine), 0) == found


def test_a_stalled_publisher_sends_everything_later_in_order(engine: Engine) -> None:
    with following(engine) as subscriber:
        engine.fault("kv_events_stall:seconds=0.5,count=1")
        for _ in range(3):
            say(engine)
        assert replayed(replay_endpoint(engine), 2**40) == []
        found = messages(subscriber, 3)
    first = found[0].sequence
    assert [each.sequence for each in found] == [first, first + 1, first + 2]


def test_a_refused_replay_gets_no_answer(engine: Engine) -> None:
    engine.fault("kv_replay_refuse:count=1")
    assert replayed(replay_endpoint(engine), 0, wait=300) is None
    eventually(lambda: replayed(replay_endpoint(engine), 0) is not None)
