"""One place in the index told with two hashes: an adapter that was loaded anew, hashes that depend on more than events
say. Blocks have four tokens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from played_events import CLEARED, answer, question, removed, stored, tell

from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.media_items import write_out
from pymotor.kv_conductor.publisher_view import PublisherView

PROMPT = range(80)


@pytest.fixture
def core() -> ConductorCore:
    return ConductorCore(lambda: 0.0)


@pytest.fixture
def view(core: ConductorCore) -> PublisherView:
    return core.follow("u-0", ["qwen", "ad"])[0]


def adapter(number: int, blocks: int) -> dict[str, object]:
    return {"lora_id": number, "lora_name": "ad", "extra_keys": [["ad"]] * blocks}


def held(core: ConductorCore, tokens: range = PROMPT, **more: object) -> tuple[int, int]:
    on_device, in_any_tier, _ = answer(core, question(tokens, **more)).get("u-0", (0, 0, 0))
    return on_device // 4, in_any_tier // 4


@pytest.mark.parametrize("blocks", [1, 3, 20])
def test_the_one_told_last_counts(core: ConductorCore, view: PublisherView, blocks: int) -> None:
    tokens = range(4 * blocks)
    tell(view, stored(tokens, range(100, 100 + blocks)))
    tell(view, stored(tokens, range(200, 200 + blocks)))
    assert held(core) == (blocks, blocks)
    tell(view, *(removed(number) for number in range(99 + blocks, 99, -1)))
    assert held(core) == (blocks, blocks), "the old ones went"
    tell(view, stored(range(80, 84), [300], parent=199 + blocks))
    tell(view, stored(tokens, range(100, 100 + blocks)))
    tell(view, *(removed(number) for number in range(99 + blocks, 99, -1)))
    assert held(core) == (0, 0), "those told last went"
    tell(view, removed(300))
    assert (len(view), core.size().blocks) == (0, 0)


def test_what_follows_one_that_was_superseded_counts_no_more(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(100, 120)))
    tell(view, stored(range(4), [200]))
    assert held(core) == (1, 1)
    tell(view, stored(range(4), [100]))
    assert held(core) == (20, 20), "they followed this one"


def test_an_adapter_that_was_loaded_anew_holds_nothing_of_before(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(20)), stored(PROMPT, range(100, 120), **adapter(1, 20)))
    tell(view, stored(range(8), [200, 201], **adapter(2, 2)))
    assert held(core, model="ad") == (2, 2)
    tell(view, stored(range(500, 504), [300], **adapter(3, 1)))
    assert held(core, model="ad") == (0, 0)
    assert held(core) == (20, 20)
    tell(view, *(removed(number) for number in (*range(119, 99, -1), 201, 200, 300, *range(20))))
    assert (len(view), core.size().blocks) == (0, 0)


def test_prompts_of_an_adapter_come_and_go(core: ConductorCore, view: PublisherView) -> None:
    for number in range(500):
        tell(view, stored(range(number, number + 4), [number], **adapter(1, 1)))
        if number >= 40:
            tell(view, removed(number - 40))
    assert view._adapters.memory_bytes < 3000
    tell(view, stored(range(9000, 9004), [9000], **adapter(2, 1)))
    assert [held(core, range(number, number + 4), model="ad") for number in range(460, 500)] == [(0, 0)] * 40


def test_adapters_are_bounded(core: ConductorCore, view: PublisherView) -> None:
    def of(number: int) -> dict[str, object]:
        return {"lora_id": number, "lora_name": f"ad-{number}", "extra_keys": [[f"ad-{number}"]]}

    core.follow("u-1", ["qwen", *(f"ad-{number}" for number in range(5000))])
    empty = view.memory_bytes
    for number in range(5000):
        tell(view, stored(range(4), [number], **of(number)))
    grown = view.memory_bytes - empty
    assert 4096 * 400 < grown < 4096 * 1000
    assert len(view) == 4096, "blocks of those that were forgotten do not count"
    for number in range(5000):
        tell(view, removed(number))
    assert len(view) == 0
    for number in range(5000, 9000):
        tell(view, stored(range(4), [number], **of(number)), removed(number))
    assert view.memory_bytes - empty < 4096 * 1000


def test_lower_tiers_say_what_blocks_are_or_name_known_ones(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(20), medium="CPU"))
    assert held(core) == (0, 0)
    tell(view, stored(PROMPT, range(20), extra_keys=[["secret"], *[None] * 19]))
    tell(view, stored(PROMPT, range(20), medium="CPU"), *(removed(number) for number in range(19, -1, -1)))
    assert (held(core), held(core, salt="secret")) == ((0, 0), (0, 20))
    assert view.counts.without_keys == 20


@pytest.mark.parametrize("medium", ["STORAGE", "cpu"])
def test_tiers_whose_evictions_are_not_told_do_not_count(core: ConductorCore, view: PublisherView, medium: str) -> None:
    tell(view, stored(PROMPT, range(20)), stored(PROMPT, range(20), medium=medium))
    tell(view, *(removed(number) for number in range(19, 9, -1)))
    assert held(core) == (10, 10)
    assert view.counts.evictions_untold == 20
    tell(view, removed(5, medium=medium), stored(range(20), range(5), medium=medium), removed(4))
    assert held(core) == (4, 10)


def test_stores_of_one_medium_are_trusted_apart(core: ConductorCore, view: PublisherView) -> None:
    of_named = {"medium": "STORAGE", "ownership": "kvcr"}
    of_remote = {"medium": "STORAGE", "locality": "REMOTE"}
    tell(view, stored(PROMPT, range(20)), removed(500, **of_named), removed(*range(19, 9, -1)))
    tell(view, stored(range(40, 80), range(10, 20), parent=9, medium="STORAGE", extra_keys=[None] * 10))
    tell(view, stored(range(40, 80), range(10, 20), parent=9, extra_keys=[None] * 10, **of_remote))
    assert held(core) == (10, 10), "one that never told an eviction may have lost it long ago"
    assert view.counts.evictions_untold == 20
    tell(view, stored(range(40, 80), range(10, 20), parent=9, extra_keys=[None] * 10, **of_named))
    assert held(core) == (10, 20)
    tell(view, removed(19, **of_named))
    assert held(core) == (10, 19)
    tell(view, CLEARED, stored(PROMPT, range(20), extra_keys=[None] * 20, **of_named))
    assert held(core) == (0, 0), "it may be another engine"


def test_a_named_store_of_the_cpu_is_not_the_engines_own(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(20), medium="CPU", ownership="shared", extra_keys=[None] * 20))
    assert held(core) == (0, 0)
    tell(view, stored(PROMPT, range(20), medium="CPU", extra_keys=[None] * 20))
    assert held(core) == (0, 20)


def test_an_event_that_names_two_hashes_of_one_place(core: ConductorCore, view: PublisherView) -> None:
    other = core.follow("u-1", ["qwen", "ad"])[0]
    tell(other, stored(PROMPT, range(20)))
    told = range(1000, 1008)
    tell(view, stored(told, [1, 2]), stored(range(1000, 1004), [3]))
    tell(view, stored(told, [1, 3], medium="CPU", extra_keys=[None, None]))
    assert answer(core, question(PROMPT)) == {"u-1": (80, 80, 80)}
    tell(view, stored(told, [4, 1]), stored(range(1000, 1012), [1, 4, 5]))
    for tokens in (PROMPT, told, range(1000, 1012)):
        assert answer(core, question(tokens)).get("u-0", (0, 0, 0)) <= (4 * len(tokens),) * 3
        assert not core._matching._in_any_tier.any()
    view.clear()
    other.clear()
    assert (core.index.entries, len(core.index.blocks)) == (0, 0)


HASHES = st.integers(0, 2)
"""Of each place of the prompt there are so many blocks."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), HASHES, st.integers(0, 19), st.integers(1, 20)),
        st.tuples(st.just("branch"), HASHES, st.integers(0, 19), st.integers(1, 20)),
        st.tuples(st.just("remove"), HASHES, st.integers(0, 19), st.integers(1, 20)),
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(STEPS)
@example([("store", 0, 0, 20), ("store", 1, 0, 20), ("remove", 0, 0, 20), ("branch", 1, 10, 10)])
def test_sets_shrink_along_a_prompt_and_nobody_is_left_over(steps: list[tuple[str, int, int, int]]) -> None:
    """Whoever holds a block holds all before it, whichever hashes are told, in whatever order."""
    core = ConductorCore(lambda: 0.0)
    (view,) = core.follow("u-0", ["qwen"])
    (other,) = core.follow("u-1", ["qwen"])
    tell(other, stored(PROMPT, range(20)))
    keys = (
        core._beginnings(question(PROMPT), "qwen", "", write_out(core._media, "qwen", question(PROMPT).tokens, []), 4)
        .until(20)
        .tolist()
    )
    for kind, which, first, count in steps:
        last = min(20, first + count)
        hashes = [1000 * which + place for place in range(first, last)]
        if kind == "remove":
            tell(view, *(removed(number) for number in reversed(hashes)))
        else:
            parent_of = (which + 1) % 3 if kind == "branch" else which
            parent = 1000 * parent_of + first - 1 if first else None
            tell(view, stored(range(4 * first, 4 * last), hashes, parent=parent))
        holds = [core.index.sets[core.index.holders_of(key)].any_tier for key in keys]
        assert all(after & ~before == 0 for before, after in itertools.pairwise(holds))
        assert answer(core, question(PROMPT))["u-1"] == (80, 80, 80)
        told = view._told._told
        counted = [told.block[row] for row in told.rows().tolist() if told.counted[row]]
        assert len(counted) == len(set(counted)), "of each place one"
        assert sorted(counted) == sorted(
            core.index.blocks.find(key) for key, mask in zip(keys, holds, strict=True) if mask & 1
        )
    view.clear()
    other.clear()
    assert (core.index.entries, len(core.index.blocks), np.count_nonzero(core._matching._in_any_tier)) == (0, 0, 0)
