"""What has a key goes to its endpoint, within the bound on load, whatever the fleet looks like."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import endpoints_of, group_of

from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.scheduling.key_choice import KeyChoice
from pymotor.coordinator.scheduling.prefix_hash import PREFIX_BYTES, prefix_key, session_key

KEYS = [session_key(b"session %d" % number) for number in range(400)]


def key_of(path: str, **body: Any) -> int:
    """Of a request with this body."""
    surface = SURFACES[path.encode()]
    return prefix_key(surface.read(surface, json.dumps({"model": "m", **body}).encode(), False))


def chat(text: str, **more: Any) -> int:
    return key_of("/v1/chat/completions", messages=[{"role": "user", "content": text}], **more)


def test_the_same_key_the_same_endpoint_and_all_are_used() -> None:
    with endpoints_of(8) as (ledger, targets):
        choice, group = KeyChoice(ledger), group_of(targets)
        first = [choice.choose(key, 100, group, frozenset()) for key in KEYS]
        assert [choice.choose(key, 100, group, frozenset()) for key in KEYS] == first
        counts = Counter(target.endpoint_id for target in first if target is not None)
        assert len(counts) == 8
        assert min(counts.values()) > 400 / 8 / 3


def test_a_change_of_the_fleet_moves_only_what_has_to_move() -> None:
    with endpoints_of(8) as (ledger, targets):
        choice = KeyChoice(ledger)
        all_of_them, fewer = group_of(targets), group_of(targets[:-1])
        for key in KEYS:
            before = choice.choose(key, 1, all_of_them, frozenset())
            after = choice.choose(key, 1, fewer, frozenset())
            avoided = choice.choose(key, 1, all_of_them, frozenset((targets[-1].endpoint_id,)))
            assert after is avoided
            assert after is before or before is targets[-1]


def test_an_overloaded_endpoint_gets_nothing_more() -> None:
    with endpoints_of(4) as (ledger, targets):
        choice, group = KeyChoice(ledger), group_of(targets)
        key = KEYS[0]
        first = choice.choose(key, 10, group, frozenset())
        assert first is not None
        ledger.begin(first.row, 100_000)
        second = choice.choose(key, 10, group, frozenset())
        assert second is not first
        ledger.end(first.row, 100_000)
        assert choice.choose(key, 10, group, frozenset()) is first


def test_nobody_is_left() -> None:
    with endpoints_of(2) as (ledger, targets):
        everybody = frozenset(target.endpoint_id for target in targets)
        assert KeyChoice(ledger).choose(1, 1, group_of(targets), everybody) is None


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200), st.integers(1, 100))
def test_no_endpoint_has_much_more_than_the_mean(keys: list[int], tokens: int) -> None:
    with endpoints_of(5) as (ledger, targets):
        choice, group = KeyChoice(ledger), group_of(targets)
        for key in keys:
            target = choice.choose(key, tokens, group, frozenset())
            assert target is not None
            ledger.begin(target.row, tokens * 10)
        loads = [ledger.load(target.row) for target in targets]
        assert max(loads) <= 1.25 * sum(loads) / 5 + 10 * tokens + 1


def test_prompts_that_begin_alike_have_one_key() -> None:
    long = "a" * PREFIX_BYTES
    assert chat(long + "one") == chat(long + "two")
    assert chat("one") != chat("two")
    assert chat(long, model="m") != chat(long, model="another")
    assert chat(long, tools=[]) != chat(long)
    assert key_of("/v1/completions", prompt=long + "x") == key_of("/v1/completions", prompt=long + "y")


def turns(count: int, question: str = "and then?", **first: Any) -> list[dict[str, Any]]:
    """A chat with so many questions."""
    found = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello", **first}]
    for number in range(1, count):
        found.append({"role": "assistant", "content": f"answer {number}"})
        found.append({"role": "user", "content": question})
    return found


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/chat/completions", "messages"), ("/v1/responses", "input")],
)
def test_a_chat_keeps_its_key(path: str, field: str) -> None:
    def key(messages: Any, **more: Any) -> int:
        return key_of(path, **{field: messages}, **more)

    began = key(turns(1))
    assert {key(turns(count)) for count in range(1, 12)} == {began}
    assert key(turns(1, content="good morning")) != began
    assert key(turns(1, content=[{"type": "text", "text": "hello"}])) != began
    assert key(turns(1)[::-1]) != began
    assert key(turns(1), tools=[]) != began
    assert {key(turns(count, "q" * 700)) for count in range(2, 12)} == {began}, "long ones, too"
    assert key(turns(2, "é" * PREFIX_BYTES)) == began
    whole = PREFIX_BYTES - len(json.dumps(turns(1, content="")).encode()) + len("]")
    for length in range(whole - 3, whole + 4):
        first = turns(1, content="x" * length)
        assert key(first) == key([*first, *turns(3)]), "wherever its first question ends"
    assert key(turns(1, content="x" * PREFIX_BYTES + "one")) == key(turns(1, content="x" * PREFIX_BYTES + "two"))


def test_what_is_no_chat_has_a_key_of_all_its_text() -> None:
    assert key_of("/v1/responses", input="one") != key_of("/v1/responses", input="two")
    assert key_of("/v1/completions", prompt=[1, 2, 3]) != key_of("/v1/completions", prompt=[1, 2, 4])
    assert key_of("/v1/completions", prompt="one") != key_of("/v1/completions", prompt="two")
    tool, other = {"role": "tool", "content": "one"}, {"role": "tool", "content": "two"}
    path = "/v1/chat/completions"
    assert key_of(path, messages=[tool, tool]) != key_of(path, messages=[tool, other])


def test_of_several_groups_the_one_with_the_keys_endpoint_is_chosen() -> None:
    with endpoints_of(6) as (ledger, targets):
        choice, together = KeyChoice(ledger), group_of(targets)
        groups = [group_of(targets[:2]), group_of(targets[2:])]
        for key in KEYS:
            first = choice.choose(key, 100, together, frozenset())
            assert first is not None
            number = choice.best_group(key, 100, groups, frozenset())
            assert number == int(first.row >= 2)
            assert choice.choose(key, 100, groups[number], frozenset()) is first
            avoid = frozenset((first.endpoint_id,))
            second = choice.choose(key, 100, together, avoid)
            assert second is not None
            assert choice.best_group(key, 100, groups, avoid) == int(second.row >= 2)
            ledger.begin(first.row, 100_000)
            assert choice.best_group(key, 100, groups, frozenset()) == int(second.row >= 2), "above the bound"
            ledger.end(first.row, 100_000)
        assert choice.best_group(KEYS[0], 100, groups, frozenset(together.endpoint_ids)) is None
