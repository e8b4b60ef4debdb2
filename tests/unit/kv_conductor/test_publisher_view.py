"""What one publisher's events come to, by hand. Blocks have four tokens; block n of a prompt has the hash n."""

from __future__ import annotations

from array import array

import pytest
from played_events import CLEARED, answer, question, removed, stored, tell

from pymotor.fleet.prefix_queries import bounded
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.hash_mixing import all_mixed, mixed
from pymotor.kv_conductor.publisher_view import PublisherView


@pytest.fixture
def core() -> ConductorCore:
    return ConductorCore(lambda: 0.0)


@pytest.fixture
def view(core: ConductorCore) -> PublisherView:
    return core.follow("u-0", ["qwen"])[0]


def held(core: ConductorCore, tokens: range, **more: object) -> tuple[int, int]:
    """Blocks on the device, and in any tier."""
    on_device, in_any_tier, _ = answer(core, question(tokens, **more)).get("u-0", (0, 0, 0))
    return on_device // 4, in_any_tier // 4


def test_blocks_follow_their_parents(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(8), [0, 1]))
    tell(view, stored(range(8, 16), [2, 3], parent=1))
    tell(view, stored(range(50, 54), [9], parent=8))
    assert held(core, range(16)) == (4, 4)
    assert view.counts.orphans == 1


@pytest.mark.parametrize("blocks", [5, 40])
def test_a_block_that_left_takes_those_after_it_out_of_account(
    core: ConductorCore, view: PublisherView, blocks: int
) -> None:
    tell(view, stored(range(4 * blocks), range(blocks)))
    tell(view, removed(2))
    assert held(core, range(4 * blocks)) == (2, 2)
    tell(view, stored(range(4 * blocks, 4 * blocks + 4), [100], parent=blocks - 1))
    assert held(core, range(4 * blocks + 4)) == (2, 2), "it follows one that is out of account"
    tell(view, stored(range(8, 12), [2], parent=1))
    assert held(core, range(4 * blocks + 4)) == (blocks + 1, blocks + 1)
    tell(view, removed(*range(blocks), 100))
    assert core.size().blocks == len(view) == 0


def test_many_that_leave_together_but_are_followed(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(160), range(40)))
    tell(view, *[removed(number) for number in range(10, 30)])
    assert held(core, range(160)) == (10, 10)
    tell(view, stored(range(40, 120), range(10, 30), parent=9))
    assert held(core, range(160)) == (40, 40)
    tell(view, *[removed(number) for number in (*range(39, 9, -1), 39)])
    assert held(core, range(160)) == (10, 10)
    assert len(view) == 10


def test_tiers(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(16), range(4)))
    tell(view, stored(range(8, 16), [2, 3], parent=1, medium="CPU"), removed(2), removed(3))
    assert held(core, range(16)) == (2, 4)
    tell(view, stored([], [1], medium="CPU", block_size=0), removed(1))
    assert held(core, range(16)) == (1, 4)
    tell(view, removed(3, medium="STORAGE"))
    assert held(core, range(16)) == (1, 4), "it was not there"
    tell(view, removed(1, medium="CPU"))
    assert held(core, range(16)) == (1, 1)
    tell(view, stored(range(4, 8), [1], parent=0, medium=None))
    assert held(core, range(16)) == (2, 4), "no medium is the device"


def test_told_twice_and_removed_once_is_gone(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(8), [0, 1]), stored(range(8), [0, 1]), removed(1))
    assert held(core, range(8)) == (1, 1)


def test_clearing_forgets_all_and_what_follows_counts(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(80), range(20)), CLEARED, stored(range(4), [0]))
    assert held(core, range(80)) == (1, 1)
    view.end()
    assert held(core, range(80)) == (0, 0)
    assert core.size().blocks == 0


def test_adapters_and_salts_are_prompts_of_their_own(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(8), [0, 1], lora_id=1, lora_name="french", extra_keys=[["french"], ["french"]]))
    tell(view, stored(range(8), [10, 11], extra_keys=[["secret"], None]))
    tell(view, stored(range(8), [20, 21], lora_id=2))
    assert held(core, range(8)) == (0, 0)
    assert held(core, range(8), adapter="french") == (2, 2)
    assert held(core, range(8), salt="secret") == (2, 2)
    assert held(core, range(8), salt="french") == (0, 0)
    tell(view, stored(range(8), [30, 31], lora_id=1, lora_name="french", extra_keys=[["french", "secret"], ["french"]]))
    assert held(core, range(8), adapter="french", salt="secret") == (2, 2)


def test_a_long_salt_is_itself_and_no_other(core: ConductorCore, view: PublisherView) -> None:
    long = "s" * 65
    tell(view, stored(range(8), [0, 1], extra_keys=[[long], None]))
    assert held(core, range(8), salt=bounded(long)) == (2, 2)
    assert held(core, range(8), salt=bounded(long + "s")) == (0, 0)
    assert held(core, range(8), salt=bounded(bounded(long))) == (0, 0), "a salt that is called like another's digest"
    tell(view, stored(range(8), [10, 11], extra_keys=[[["cache_salt", long + "s"]], None]))
    assert held(core, range(8), salt=bounded(long + "s")) == (2, 2)


def test_an_adapter_that_is_asked_for_like_a_model_holds_nothing_of_the_model(core: ConductorCore) -> None:
    view = core.follow("u-0", ["qwen", "french"])[0]
    tell(view, stored(range(16), range(4)))
    assert held(core, range(16), model="french") == (0, 0), "before an event named it"
    tell(view, stored(range(8), [10, 11], lora_id=1, lora_name="french", extra_keys=[["french"], ["french"]]))
    assert held(core, range(16)) == (4, 4)
    assert held(core, range(16), model="french") == (2, 2)


def test_what_a_block_depends_on_beyond_words_known_here_matches_nothing(
    core: ConductorCore, view: PublisherView
) -> None:
    tell(view, stored(range(8), [0, 1], extra_keys=[None, [b"digest of embeddings"]]))
    assert held(core, range(8)) == (1, 1)


def test_only_full_attention_counts(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(16), range(4), group_idx=1, kv_cache_spec_kind="mamba"))
    assert held(core, range(16)) == (0, 0)
    tell(view, stored(range(16), range(4), group_idx=0, kv_cache_spec_kind="full_attention"))
    tell(view, removed(2, group_idx=1))
    assert held(core, range(16)) == (4, 4)
    tell(view, removed(3, group_idx=0))
    assert held(core, range(16)) == (2, 2)
    assert view.counts.other_groups == 4


def test_parts_of_blocks_and_tokens_that_do_not_fit_are_passed_over(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(2), [50], block_size=2))
    tell(view, stored(range(8), [0, 1]))
    assert view.block_size == 4
    tell(view, stored(range(8, 10), [51], parent=1, block_size=2))
    tell(view, stored(range(8, 11), [52], parent=1))
    tell(view, stored(range(8, 12), [53], parent=1, extra_keys=[None, None]))
    tell(view, stored(range(16), [54], medium="CPU", block_size=16, extra_keys=[None]))
    assert view.counts.other_sizes == 4
    assert held(core, range(12)) == (2, 2)


@pytest.mark.parametrize("size", [2, 8])
def test_another_engine_may_have_blocks_of_another_size(core: ConductorCore, view: PublisherView, size: int) -> None:
    tell(view, stored(range(16), range(4), group_idx=0, kv_cache_spec_kind="full_attention"))
    view.clear()
    assert core.index.sizes.of("qwen") == ()
    tell(view, stored(range(16), range(16 // size), block_size=size, group_idx=1))
    assert core.index.sizes.of("qwen") == (size,)
    assert held(core, range(16)) == (4, 4)
    core.unfollow("u-0")
    assert core.index.sizes.of("qwen") == ()


def test_what_is_passed_over_is_counted_of_those_who_are_gone_too(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(8), [0, 1]), stored(range(8), [2, 3], parent=99), {"type": "News"})
    tell(core.follow("u-1", ["qwen"])[0], stored(range(8), [2, 3], parent=99))
    core.unfollow("u-1")
    passed_over = core.passed_over()
    assert (passed_over.orphans, passed_over.unknown_events, passed_over.other_sizes) == (4, 1, 0)


def test_a_prompt_longer_than_keys_reach(core: ConductorCore, view: PublisherView) -> None:
    blocks = (1 << 16) + 3
    tell(view, stored([1] * (4 * blocks), range(blocks)))
    assert answer(core, question([1] * (4 * blocks)))["u-0"][0] == 4 << 16
    assert view.counts.too_deep == 3


def test_beginnings_that_went_before_all_that_follows(core: ConductorCore, view: PublisherView) -> None:
    other = core.follow("u-1", ["qwen"])[0]
    tell(other, stored(range(8), [0, 1]))
    tell(view, stored(range(8), [0, 1]))
    for branch in range(20):
        tell(view, stored(range(100 + branch, 104 + branch), [100 + branch], parent=branch % 2))
    tell(view, removed(0), removed(1))
    assert held(core, range(8)) == (0, 0)
    tell(view, *[removed(100 + branch) for branch in range(20)])
    assert (len(view), core.size().entries) == (0, 2)
    assert answer(core, question(range(8)))["u-1"][0] == 8


def test_an_event_that_names_a_block_twice_is_passed_over(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(64), [*range(15), 3]), stored(range(8), [20, 20]))
    assert (view.counts.repeated, len(view), core.size().entries) == (18, 0, 0)


def test_a_salt_that_is_called_like_the_adapter(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored(range(8), [0, 1], lora_name="ada", extra_keys=[["ada", "ada"], ["ada"]]))
    assert held(core, range(8), adapter="ada") == (0, 0)
    assert held(core, range(8), adapter="ada", salt="ada") == (2, 2)


@pytest.mark.parametrize("shift", [0, 20, 32, 48])
def test_hashes_that_are_alike_stand_apart(shift: int) -> None:
    assert len({mixed(number << shift) & 4095 for number in range(4096)}) > 1500
    hashes = array("Q", [number << shift for number in range(100)])
    assert all_mixed(hashes).tolist() == [mixed(own) for own in hashes]
