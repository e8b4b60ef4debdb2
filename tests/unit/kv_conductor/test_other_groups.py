"""Models with layers of several kinds: what full attention holds counts as far as the other groups have what an engine
needs to go on from there. Blocks have four tokens; block n of the prompt has the hash n."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from played_events import answer, question, removed, stored, tell

from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.publisher_view import PublisherView

BLOCKS = 12
PROMPT = range(4 * BLOCKS)
FULL = {"group_idx": 0, "kv_cache_spec_kind": "full_attention"}


def sliding(window: int, group: int = 1, **more: object) -> dict[str, object]:
    kind = {"kv_cache_spec_kind": "sliding_window", "kv_cache_spec_sliding_window": window}
    return {"group_idx": group, **kind, **more}


MAMBA = {"group_idx": 1, "kv_cache_spec_kind": "mamba"}


@pytest.fixture
def core() -> ConductorCore:
    return ConductorCore(lambda: 0.0)


@pytest.fixture
def view(core: ConductorCore) -> PublisherView:
    return core.follow("u-0", ["qwen"])[0]


def held(core: ConductorCore, blocks: int = BLOCKS) -> tuple[int, int]:
    """Blocks on the device, and in any tier."""
    on_device, in_any_tier, _ = answer(core, question(range(4 * blocks))).get("u-0", (0, 0, 0))
    return on_device // 4, in_any_tier // 4


def test_a_window_needs_the_blocks_that_it_reaches_back_to(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **sliding(10)))
    assert held(core) == (0, 0), "full attention holds nothing"
    tell(view, stored(PROMPT, range(BLOCKS), **FULL))
    assert held(core) == (12, 12)
    tell(view, *(removed(number, group_idx=1) for number in range(6)))
    assert held(core) == (12, 12), "ten tokens reach back to three blocks"
    assert held(core, 9) == (9, 9)
    assert held(core, 8) == (0, 0)
    tell(view, removed(11, group_idx=1))
    assert held(core) == (11, 11)
    tell(view, removed(9, group_idx=1))
    assert held(core) == (9, 9)
    tell(view, removed(8, group_idx=1))
    assert held(core) == (0, 0)
    tell(view, stored(range(8), [0, 1], **sliding(10)))
    assert held(core) == (2, 2), "a prompt's first blocks are all that there is before"
    tell(view, removed(1, group_idx=0))
    assert held(core) == (1, 1)


def test_mamba_needs_the_last_block_alone(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, [3, 7], **MAMBA))
    assert held(core) == (8, 8)
    tell(view, removed(7, group_idx=1))
    assert held(core) == (4, 4)


def test_a_kind_that_is_not_known_needs_all(core: ConductorCore, view: PublisherView) -> None:
    chunks = {"group_idx": 1, "kv_cache_spec_kind": "chunked_local_attention"}
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(BLOCKS), **chunks))
    tell(view, removed(5, group_idx=1))
    assert held(core) == (5, 5)


def test_a_group_without_blocks_is_a_group(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, [], **sliding(10)))
    assert held(core) == (0, 0)


def test_blocks_of_a_multiple_of_tokens(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, [1, 3, 5, 7, 9, 11], **sliding(10, block_size=8)))
    assert held(core, 11) == (10, 10), "an engine goes on where both have whole blocks"
    tell(view, removed(7, group_idx=1))
    assert held(core, 11) == (6, 6)


def test_blocks_that_end_where_no_hash_is_known_count_for_nothing(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(24), **sliding(10, block_size=2)))
    assert held(core) == (0, 0)


def test_tiers_of_other_groups(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(BLOCKS), **sliding(5)))
    tell(view, stored(PROMPT, range(BLOCKS), medium="CPU", **sliding(5)))
    tell(view, removed(11, group_idx=1))
    assert held(core) == (11, 12)
    tell(view, removed(11, group_idx=1, medium="CPU"))
    assert held(core) == (11, 11)


def test_tiers_whose_evictions_are_not_told_do_not_count(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(BLOCKS), **sliding(5)))
    tell(view, stored(PROMPT, range(BLOCKS), medium="cpu", **sliding(5)), removed(11, group_idx=1))
    assert held(core) == (11, 11)
    assert core.size().entries == 2 * BLOCKS - 1


def test_a_removal_that_names_no_group_is_of_all(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(BLOCKS), **sliding(5)))
    tell(view, removed(11))
    tell(view, stored(range(44, 48), [11], parent=10, **FULL))
    assert held(core) == (11, 11)


def test_another_publisher_is_not_limited(core: ConductorCore, view: PublisherView) -> None:
    other = core.follow("u-1", ["qwen"])[0]
    tell(other, stored(PROMPT, range(BLOCKS), **FULL))
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, [3], **MAMBA))
    assert answer(core, question(PROMPT)) == {"u-0": (16, 16, 16), "u-1": (48, 48, 48)}


def test_all_is_forgotten_with_the_publisher(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(BLOCKS), **sliding(5)))
    assert core.size().entries == 2 * BLOCKS
    view.clear()
    assert (core.size().entries, core.index.limits) == (0, {})
    tell(view, stored(PROMPT, range(BLOCKS), group_idx=1))
    assert held(core) == (12, 12), "another engine's groups"
    core.unfollow("u-0")
    assert (core.size().entries, core.index.limits) == (0, {})


def test_the_bound_on_entries_holds_for_other_groups() -> None:
    core = ConductorCore(lambda: 0.0, most_entries=BLOCKS + 3)
    (view,) = core.follow("u-0", ["qwen"])
    tell(view, stored(PROMPT, range(BLOCKS), **FULL), stored(PROMPT, range(BLOCKS), **sliding(5)))
    assert (core.size().entries, held(core), view.counts.no_room) == (BLOCKS, (0, 0), BLOCKS)


GROUPS = ((1, 10, 1), (2, 10, 2), (3, 21, 1), (4, None, 2))
"""Number, window (None: mamba), and of how many of full attention's blocks one of its is."""
CHANGES = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, BLOCKS - 1), st.integers(0, BLOCKS - 1)), max_size=60
)


@settings(max_examples=300)
@given(st.sets(st.sampled_from(GROUPS), min_size=1), CHANGES, st.permutations(range(5)))
def test_whatever_is_stored_and_removed(
    groups: set[tuple[int, int | None, int]], changes: list[tuple[int, bool, int, int]], order: list[int]
) -> None:
    """All groups are told in any order; then each change stores or removes a part of one."""
    core = ConductorCore(lambda: 0.0)
    (view,) = core.follow("u-0", ["qwen"])
    has: dict[int, set[int]] = {0: set(), **{number: set() for number, _, _ in groups}}
    strides = {0: 1, **{number: stride for number, _, stride in groups}}
    said: dict[int, dict[str, object]] = {
        0: FULL,
        **{
            number: {**MAMBA, "group_idx": number, "block_size": 4 * stride}
            if window is None
            else sliding(window, number, block_size=4 * stride)
            for number, window, stride in groups
        },
    }

    def change(number: int, store: bool, first: int, last: int) -> None:
        stride = strides[number]
        blocks = [block for block in range(first, last + 1) if (block + 1) % stride == 0]
        if not store:
            tell(view, *(removed(block, group_idx=number) for block in blocks))
            has[number] -= set(blocks)
        elif number or not first or first - 1 in has[0]:
            tokens = range(4 * first, 4 * last + 4)
            tell(view, stored(tokens, blocks, parent=first - 1 if first else None, **said[number]))
            has[number] |= set(blocks)

    for number in order:
        if number in has:
            change(number, True, 0, BLOCKS - 1)
    for number, store, first, last in changes:
        if number in has:
            change(number, store, min(first, last), max(first, last))
        assert held(core) == (expected(has, groups),) * 2
    view.clear()
    assert core.size().entries == 0


def expected(has: dict[int, set[int]], groups: set[tuple[int, int | None, int]]) -> int:
    whole = next((block for block in range(BLOCKS) if block not in has[0]), BLOCKS)
    step = math.lcm(*(stride for _, _, stride in groups))
    for blocks in range(whole - whole % step, 0, -step):
        if all(suffices(has[number], window, stride, blocks) for number, window, stride in groups):
            return blocks
    return 0


def suffices(has: set[int], window: int | None, stride: int, blocks: int) -> bool:
    needed = 1 if window is None else math.ceil((window - 1) / (4 * stride))
    ends = range(blocks - 1, -1, -stride)[:needed]
    return all(end in has for end in ends)
