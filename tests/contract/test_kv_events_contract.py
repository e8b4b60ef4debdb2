"""KV events: what a router learns of an engine's prefix cache."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from engine_legs import answer, chat, image, post, text
from engines_under_test import BLOCK_TOKENS, EnginesUnderTest, metric
from kv_event_subscriber import Subscriber, replayed, source, subscribed

FIELDS = {
    "type",
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
}


def words(name: str) -> str:
    """A text of several blocks that begins with `name` and the time, so that no engine has seen it."""
    return f"{name} {time.time_ns()} " + "and so on " * (BLOCK_TOKENS // 3)


def ask(engines: EnginesUnderTest, *parts: Any, **fields: Any) -> int:
    """One request to the union; returns its prompt's tokens."""
    usage = answer(post(engines.union, chat(*parts, max_tokens=1, **fields)))["usage"]
    tokens: int = usage["prompt_tokens"]
    return tokens


def events_of(engines: EnginesUnderTest, *parts: Any, **fields: Any) -> list[dict[str, Any]]:
    """The BlockStored events of a request whose prompt is new."""
    with subscribed(source(engines.union)["endpoint"], lambda: ask(engines, text(words("hello")))) as subscriber:
        blocks = ask(engines, *parts, **fields) // BLOCK_TOKENS
        return stored(subscriber, blocks)


def stored(subscriber: Subscriber, blocks: int) -> list[dict[str, Any]]:
    """BlockStored events of so many blocks."""

    def found(events: list[Any]) -> list[dict[str, Any]]:
        return [event for event in events if event["type"] == "BlockStored"]

    return found(subscriber.events_until(lambda events: sum(len(e["block_hashes"]) for e in found(events)) >= blocks))


def test_an_engine_tells_where_it_sends_them(engines: EnginesUnderTest) -> None:
    said = source(engines.union)
    assert set(said) == {
        *("enable_kv_cache_events", "publisher", "endpoint", "replay_endpoint"),
        *("buffer_steps", "hwm", "max_queue_size", "topic"),
    }
    assert (said["enable_kv_cache_events"], said["publisher"]) == (True, "zmq")
    assert said["endpoint"].startswith("tcp://127.0.0.1:")
    assert httpx.get(f"{engines.decode}/kv_event_sources", timeout=60).json() == {}


def test_a_new_prompt_is_told_block_by_block(engines: EnginesUnderTest) -> None:
    prompt = words("new")
    events = events_of(engines, text(prompt))
    first = events[0]
    assert set(first) == FIELDS
    assert first["parent_block_hash"] is None
    assert first["block_size"] == BLOCK_TOKENS
    assert (first["medium"], first["group_idx"], first["kv_cache_spec_kind"]) == ("GPU", 0, "full_attention")
    assert (first["lora_id"], first["lora_name"]) == (None, None)
    hashes = [block for event in events for block in event["block_hashes"]]
    assert len(set(hashes)) == len(hashes) >= 2
    assert all(isinstance(block, int) and block < 2**64 for block in hashes)
    assert all(len(event["token_ids"]) == BLOCK_TOKENS * len(event["block_hashes"]) for event in events)
    assert all(event["extra_keys"] == [None] * len(event["block_hashes"]) for event in events)
    tokens = post(engines.union, chat(text(prompt)), "/tokenize").json()["tokens"]
    told = [token for event in events for token in event["token_ids"]]
    assert told == tokens[: len(told)]


def test_only_what_was_not_there_is_told(engines: EnginesUnderTest) -> None:
    prompt = words("known")
    with subscribed(source(engines.union)["endpoint"], lambda: ask(engines, text(words("hello")))) as subscriber:
        before = stored(subscriber, ask(engines, text(prompt)) // BLOCK_TOKENS)
        hits = metric(engines.union, "vllm:prefix_cache_hits_total")
        longer = ask(engines, text(prompt + words("more")))
        after = subscriber.events_until(bool)
    known = [block for event in before for block in event["block_hashes"]]
    (event,) = after
    assert event["parent_block_hash"] in known
    found = known.index(event["parent_block_hash"]) + 1
    assert found + len(event["block_hashes"]) == longer // BLOCK_TOKENS
    assert metric(engines.union, "vllm:prefix_cache_hits_total") - hits == found * BLOCK_TOKENS


def test_media_and_salts_are_extra_keys(engines: EnginesUnderTest) -> None:
    seed = time.time_ns() % 2**31
    events = events_of(engines, text(words("salted")), image(seed), text(words("end")), cache_salt="pepper")
    keys = [key for event in events for key in event["extra_keys"]]
    assert keys[0] == ["pepper"]
    items = [(index, key) for index, block in enumerate(keys) for key in block or () if key != "pepper"]
    assert items
    identifiers = {key[0] for _, key in items}
    assert len(identifiers) == 1
    begins = {index * BLOCK_TOKENS + key[1] for index, key in items}
    assert len(begins) == 1  # counted from each block's own first token


def test_generated_blocks_are_told_too(engines: EnginesUnderTest) -> None:
    body = chat(text(words("long")), max_tokens=2 * BLOCK_TOKENS, ignore_eos=True)
    with subscribed(source(engines.union)["endpoint"], lambda: ask(engines, text(words("hello")))) as subscriber:
        usage = answer(post(engines.union, body))["usage"]
        events = stored(subscriber, (usage["total_tokens"] - 1) // BLOCK_TOKENS)
    hashes = [block for event in events for block in event["block_hashes"]]
    assert len(hashes) == (usage["total_tokens"] - 1) // BLOCK_TOKENS
    parents = [event["parent_block_hash"] for event in events]
    assert parents == [None, *[event["block_hashes"][-1] for event in events[:-1]]]


def test_past_messages_are_sent_again(engines: EnginesUnderTest) -> None:
    said = source(engines.union)
    with subscribed(said["endpoint"], lambda: ask(engines, text(words("hello")))) as subscriber:
        ask(engines, text(words("again")))
        message = subscriber.next()
    assert message is not None
    again = replayed(said["replay_endpoint"], message.sequence)
    assert again is not None
    assert again[0] == message
    everything = replayed(said["replay_endpoint"], 0)
    assert everything is not None
    assert [each.sequence for each in everything] == list(range(len(everything)))
    assert replayed(said["replay_endpoint"], everything[-1].sequence + 1_000_000) == []


@pytest.mark.parametrize("salt", ["", 7])
def test_a_bad_salt_is_refused(engines: EnginesUnderTest, salt: object) -> None:
    assert post(engines.union, chat(text("x"), cache_salt=salt)).status_code == 400
