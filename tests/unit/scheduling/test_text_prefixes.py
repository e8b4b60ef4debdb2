"""What is guessed of caches by texts alone."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import xxhash
from hypothesis import given
from hypothesis import strategies as st
from ledgers import endpoints_of, group_of

from pymotor.coordinator.affinity.text_prefixes import TextPrefixes
from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView

PATH = b"/v1/chat/completions"


def chat(*contents: Any, **more: Any) -> RequestView:
    """A chat in which user and assistant take turns."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(contents)]
    return SURFACES[PATH].read(SURFACES[PATH], json.dumps({"model": "m", "messages": messages, **more}).encode(), False)


def held(prefixes: TextPrefixes, view: RequestView, count: int = 3) -> list[int]:
    """What each of some endpoints is expected to hold."""
    with endpoints_of(count) as (_, targets):
        matches, group = prefixes.matches(prefixes.trail(view)), group_of(targets)
        found: list[int] = matches.expected(group).tolist()
        places, tokens = matches.holding(group)
        assert dict(zip(places, tokens, strict=True)) == {place: one for place, one in enumerate(found) if one}
        return found


def test_a_chat_that_goes_on_is_known_where_it_was() -> None:
    prefixes = TextPrefixes()
    first = chat("a" * 4000)
    assert held(prefixes, first) == [0, 0, 0]
    prefixes.routed(prefixes.trail(first), "union-1/0")
    longer = chat("a" * 4000, "b" * 1000, "c" * 1000)
    found = held(prefixes, longer)
    assert found[0] == found[2] == 0
    assert 0.9 * first.prompt_tokens < found[1] <= first.prompt_tokens
    assert held(prefixes, chat("x" + "a" * 4000)) == [0, 0, 0]
    assert held(prefixes, chat("a" * 4000, tools=[])) == [0, 0, 0]
    assert held(prefixes, chat("a" * 4000, model="another")) == [0, 0, 0]
    assert held(prefixes, chat("a" * 4000, reasoning_effort="high")) == [0, 0, 0]
    assert held(prefixes, chat("a" * 4000, truncate_prompt_tokens=9)) == [0, 0, 0]


def test_what_a_text_depends_on_is_told_apart_by_field_and_by_where_it_ends() -> None:
    contexts: list[dict[str, Any]] = [
        {"system": "one"},
        {"instructions": "one"},
        {"system": 1, "instructions": 23},
        {"system": 12, "instructions": 3},
        {"system": [], "tools": [], "documents": []},
        {"tools": [], "documents": []},
        {"model": "m1", "system": 2},
        {"model": "m", "system": 12},
    ]
    trails = [TextPrefixes().trail(chat("a" * 4000, **context)).hashes for context in contexts]
    assert len({tuple(hashes) for hashes in trails}) == len(contexts)
    assert all(not set(hashes) & set(other) for place, hashes in enumerate(trails) for other in trails[:place])


def test_several_may_have_it() -> None:
    prefixes = TextPrefixes()
    shared = "s" * 2000
    for number, text in enumerate(("one", "two", "three")):
        prefixes.routed(prefixes.trail(chat(shared + text * 500)), f"union-{number}/0")
    found = held(prefixes, chat(shared + "two" * 500))
    assert found[1] > found[0] == found[2] > 0


def test_who_was_gone_has_nothing_of_what_it_was_sent() -> None:
    prefixes = TextPrefixes()
    view = chat("a" * 4000)
    trail = prefixes.trail(view)
    for number in range(3):
        prefixes.routed(trail, f"union-{number}/0")
    everybody = held(prefixes, view)
    assert all(everybody)
    prefixes.fleet_changed(frozenset(("union-0/0", "union-2/0", "union-3/0")))
    assert [bool(tokens) for tokens in held(prefixes, view)] == [True, False, True]
    prefixes.fleet_changed(frozenset(("union-0/0", "union-1/0", "union-2/0")))
    assert [bool(tokens) for tokens in held(prefixes, view)] == [True, False, True], "it is another engine"
    prefixes.routed(trail, "union-1/0")
    assert held(prefixes, view) == everybody


def test_images_are_not_read_as_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    view = chat([image, {"type": "text", "text": "b" * 1000}])
    assert len(TextPrefixes().trail(view).hashes) < 8


def test_what_was_not_seen_for_long_is_forgotten() -> None:
    prefixes = TextPrefixes(most_blocks=40)
    old, new = chat("o" * 4000), chat("n" * 11000)
    prefixes.routed(prefixes.trail(old), "union-0/0")
    assert held(prefixes, old)[0]
    prefixes.routed(prefixes.trail(new), "union-1/0")
    assert not any(held(prefixes, old))
    assert held(prefixes, new)[1], "the beginning of the newest stays"
    assert len(prefixes._blocks) == 40


class PlainMemory:
    """The same, block by block."""

    def __init__(self, most: int) -> None:
        self.blocks: dict[int, list[tuple[str, int]]] = {}
        """By hash, the least recently seen first: who was sent it, the latest last, and for which time it served."""
        self.times: Counter[str] = Counter()
        self.most = most

    def routed(self, hashes: list[int], name: str) -> None:
        """See `TextPrefixes`."""
        for block in reversed(hashes):
            holders = self.blocks.pop(block, [])
            if not holders or holders[-1] != self.now(name):
                kept = [one for one in holders if one == self.now(one[0]) and one[0] != name]
                holders = [*kept, self.now(name)][-4:]
            self.blocks[block] = holders
        for block in list(self.blocks)[: max(0, len(self.blocks) - self.most)]:
            del self.blocks[block]

    def now(self, name: str) -> tuple[str, int]:
        """The endpoint for as long as it serves."""
        return name, self.times[name]

    def tokens(self, hashes: list[int], tokens_a_block: float) -> dict[str, int]:
        """What endpoints are expected to hold."""
        found: dict[str, int] = {}
        for place, block in enumerate(hashes):
            if block not in self.blocks:
                break
            for name, time in self.blocks[block]:
                if place and time == self.times[name]:
                    found[name] = int(place * tokens_a_block)
        return found


names = st.sampled_from([f"union-{number}/0" for number in range(7)])
texts = st.lists(st.sampled_from("ab"), min_size=0, max_size=9).map(
    lambda pieces: "".join(piece * 256 for piece in pieces)
)


@given(st.lists(st.one_of(st.tuples(texts, names), st.frozensets(names, min_size=4)), max_size=40), st.integers(4, 60))
def test_what_is_known_is_what_a_plain_memory_knows(
    steps: list[tuple[str, str] | frozenset[str]], most_blocks: int
) -> None:
    prefixes, plain = TextPrefixes(most_blocks), PlainMemory(most_blocks)
    served: set[str] = set()
    for step in steps:
        if isinstance(step, frozenset):
            prefixes.fleet_changed(step)
            plain.times.update(served - step)
            served &= step
            continue
        text, name = step
        trail = prefixes.trail(chat(text))
        assert prefixes.matches(trail).tokens == plain.tokens(trail.hashes, trail.tokens_a_block)
        prefixes.routed(trail, name)
        served.add(name)
        plain.routed(trail.hashes, name)
        assert list(prefixes._blocks) == list(plain.blocks)


def test_a_block_is_hashed_with_all_before_it() -> None:
    view = chat("".join(letter * 256 for letter in "abcdef"))
    text = memoryview(view.fields["messages"])
    hashes = [xxhash.xxh3_64_intdigest(b"m")]
    for start in range(0, len(text) - 255, 256):
        hashes.append(xxhash.xxh3_64_intdigest(text[start : start + 256], hashes[-1]))
    assert TextPrefixes().trail(view).hashes == hashes
