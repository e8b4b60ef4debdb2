"""The conductor's core, asked as a Coordinator asks it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from played_events import CLEARED, Clock, answer, question, removed, stored, tell

from pymotor.fleet.prefix_queries import PrefixQuery, PrefixRouted
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.holders import TooManyHoldersError
from pymotor.kv_conductor.publisher_view import PublisherView
from pymotor.kv_conductor.questions import AskedQuestions


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def core(clock: Clock) -> ConductorCore:
    return ConductorCore(clock, secret=b"0123456789abcdef")


def test_what_was_told_is_found_up_to_where_prompts_differ(core: ConductorCore) -> None:
    (first,) = core.follow("u-0", ["qwen"])
    (second,) = core.follow("u-1", ["qwen"])
    tell(first, stored(range(40), range(10)))
    tell(second, stored(range(12), range(100, 103)))
    assert answer(core, question(range(40))) == {"u-0": (40, 40, 40), "u-1": (12, 12, 12)}
    assert answer(core, question([*range(20), *range(500, 520)])) == {"u-0": (20, 20, 20), "u-1": (12, 12, 12)}
    assert answer(core, question(range(1, 40))) == {}
    assert answer(core, question(range(7))) == {"u-0": (4, 4, 4), "u-1": (4, 4, 4)}
    assert answer(core, question([])) == {}
    assert answer(core, question(range(40), model="other")) == {}


def test_long_prompts_are_found_to_the_block(core: ConductorCore) -> None:
    views = [core.follow(f"u-{number}", ["qwen"])[0] for number in range(5)]
    held = [1, 127, 128, 129, 3000]
    for view, blocks in zip(views, held, strict=True):
        tell(view, stored(range(4 * blocks), range(blocks)))
    expected = {f"u-{number}": (4 * blocks,) * 3 for number, blocks in enumerate(held)}
    assert answer(core, question(range(4 * 5000))) == expected


def test_routed_prompts_are_expected_until_time_is_up(core: ConductorCore, clock: Clock) -> None:
    (first,) = core.follow("u-0", ["qwen"])
    core.follow("u-1", ["qwen"])
    tell(first, stored(range(8), range(2)))
    prompt = range(1000)
    answer(core, question(prompt, 7))
    assert core.routed("coordinator", PrefixRouted(7, "u-1"))
    assert answer(core, question(prompt, 8)) == {"u-0": (8, 8, 8), "u-1": (0, 0, 768)}
    clock.now += 1.5
    assert core.routed("coordinator", PrefixRouted(8, "u-1"))
    clock.now += 1.5
    assert answer(core, question(prompt, 9))["u-1"] == (0, 0, 768), "sent again since"
    clock.now += 0.5
    assert answer(core, question(prompt, 10)) == {"u-0": (8, 8, 8)}


def test_a_prompt_that_failed_somewhere_is_expected_where_it_went_next(core: ConductorCore) -> None:
    for endpoint in ("u-0", "u-1", "u-2"):
        core.follow(endpoint, ["qwen"])
    answer(core, question(range(512), 7))
    assert not core.routed("coordinator", PrefixRouted(7, "nobody"))
    for endpoint in ("u-0", "u-2"):
        assert core.routed("coordinator", PrefixRouted(7, endpoint))
    assert answer(core, question(range(512), 8)) == {"u-0": (0, 0, 512), "u-2": (0, 0, 512)}


def test_no_more_is_kept_of_questions_than_there_is_room() -> None:
    asked = AskedQuestions(most=3, most_bytes=4 * 110)
    for number, length in enumerate((50, 40, 10, 5)):
        asked.keep("one", question(range(length), number))
    asked.keep("another", question(range(30), 2))
    assert [number for number in range(4) if asked.find("one", number)] == [2, 3]
    asked.keep("another", question(range(95), 2))
    assert [number for number in range(4) if asked.find("one", number)] == [3]
    asked.forget("one")
    assert asked.find("another", 2) is not None
    asked.forget("another")
    assert (len(asked), asked.memory_bytes) == (0, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"salt": "s" * 70},
        {"adapter": "a" * 1000},
        {"model": "m" * 1000},
        {"media": [(place, f"{place}" + "i" * 60) for place in range(20)]},
    ],
)
def test_all_that_is_kept_of_a_question_counts(more: dict[str, Any]) -> None:
    """Measured by what the interpreter has allocated, since bounds are there for that."""
    asked = AskedQuestions(most_bytes=1 << 18)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1000):
            frame = msgspec.msgpack.encode(question(range(8), number, **more))
            asked.keep("one", msgspec.msgpack.decode(frame, type=PrefixQuery))
            del frame
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept / 2 < asked.memory_bytes
    assert asked.memory_bytes < (1 << 18) + 400 * len(asked)
    assert asked.memory_bytes < 8 * kept


def test_who_restarted_or_went_expects_nothing(core: ConductorCore) -> None:
    for endpoint in ("u-0", "u-1"):
        core.follow(endpoint, ["qwen"])
    for number, endpoint in enumerate(("u-0", "u-1")):
        answer(core, question(range(512), number))
        core.routed("coordinator", PrefixRouted(number, endpoint))
    core.forget_routed("u-0")
    assert answer(core, question(range(512))) == {"u-1": (0, 0, 512)}
    core.unfollow("u-1")
    assert answer(core, question(range(512))) == {}


def test_nothing_is_expected_where_nobody_knows_which_rank_got_it(core: ConductorCore) -> None:
    core.follow("u-0", ["qwen"], ranks=2)
    answer(core, question(range(512), 3))
    assert not core.routed("coordinator", PrefixRouted(3, "u-0"))
    assert answer(core, question(range(512))) == {}
    assert core.size().routed_prompts == 0


def test_questions_of_other_connections_are_not_known(core: ConductorCore) -> None:
    core.follow("u-0", ["qwen"])
    answer(core, question(range(512), 3))
    assert not core.routed("another", PrefixRouted(3, "u-0"))
    core.forget_asker("coordinator")
    assert not core.routed("coordinator", PrefixRouted(3, "u-0"))


def test_an_endpoint_of_several_ranks_holds_what_all_hold(core: ConductorCore) -> None:
    ranks = core.follow("u-0", ["qwen"], ranks=2)
    (alone,) = core.follow("u-1", ["qwen"])
    tell(ranks[0], stored(range(40), range(10)))
    tell(alone, stored(range(4), [1]))
    assert answer(core, question(range(40))) == {"u-1": (4, 4, 4)}
    tell(ranks[1], stored(range(16), range(50, 54)))
    assert answer(core, question(range(40))) == {"u-0": (16, 16, 16), "u-1": (4, 4, 4)}
    tell(ranks[0], CLEARED)
    assert answer(core, question(range(40))) == {"u-1": (4, 4, 4)}
    core.unfollow("u-0")
    assert core.size().entries == 1


def test_other_names_and_other_block_sizes_of_a_model(core: ConductorCore) -> None:
    names = ["qwen", "chat"]
    (first,) = core.follow("u-0", names, aliases=names)
    (second,) = core.follow("u-1", ["chat", "qwen"], aliases=names)
    tell(first, stored(range(32), range(8)))
    tell(second, stored(range(32), range(2), block_size=16))
    for name in ("qwen", "chat"):
        assert answer(core, question(range(30), model=name)) == {"u-0": (28, 28, 28), "u-1": (16, 16, 16)}


def test_slots_are_given_again_and_the_list_says_so(core: ConductorCore) -> None:
    core.follow("u-0", ["qwen"])
    core.follow("u-1", ["qwen"], ranks=2)
    before = core.followed()
    assert before.endpoints == ["u-0", "u-1", ""]
    core.unfollow("u-0")
    assert core.followed().endpoints == ["", "u-1", ""]
    assert core.followed().revision > before.revision
    (view,) = core.follow("u-2", ["qwen"])
    assert core.followed().endpoints == ["u-2", "u-1", ""]
    tell(view, stored(range(4), [1]))
    assert answer(core, question(range(4))) == {"u-2": (4, 4, 4)}
    with pytest.raises(ValueError, match="u-2 is followed already"):
        core.follow("u-2", ["qwen"])
    with pytest.raises(TooManyHoldersError):
        core.follow("u-3", ["qwen"], ranks=8190)
    core.follow("u-3", ["qwen"], ranks=8189)


def test_the_bound_on_entries_is_kept_and_reported() -> None:
    core = ConductorCore(most_entries=10)
    (view,) = core.follow("u-0", ["qwen"])
    tell(view, stored(range(32), range(8)))
    tell(view, stored(range(100, 116), range(50, 54)))
    assert answer(core, question(range(100, 116))) == {}
    assert (core.size().entries, core.size().refused, view.counts.no_room) == (8, 4, 4)
    tell(view, CLEARED, stored(range(100, 116), range(50, 54)))
    assert answer(core, question(range(100, 116))) == {"u-0": (16, 16, 16)}


def test_people_see_all_endpoints_of_the_model(core: ConductorCore) -> None:
    (first,) = core.follow("u-0", ["qwen"])
    core.follow("u-1", ["qwen"])
    core.follow("u-2", ["other"])
    tell(first, stored(range(8), range(2)), stored(range(8, 12), [3], parent=1, medium="CPU", extra_keys=[None]))
    explained = core.explain(question(range(40)))
    assert (explained.prompt_tokens, explained.whole) == (40, True)
    assert [(own.endpoint, own.on_device, own.in_any_tier, own.block_size) for own in explained.endpoints] == [
        ("u-0", 8, 12, 4),
        ("u-1", 0, 0, 0),
    ]


def test_a_name_means_the_model_only_while_all_who_serve_it_say_so(core: ConductorCore) -> None:
    (first,) = core.follow("u-0", ["qwen", "chat"], aliases=["chat"])
    tell(first, stored(range(8), range(2)))
    assert answer(core, question(range(8), model="chat")) == {"u-0": (8, 8, 8)}
    (second,) = core.follow("u-1", ["qwen", "chat"])
    tell(second, stored(range(8), range(2)))
    assert answer(core, question(range(8), model="chat")) == {}, "to one of them it may be an adapter"
    core.unfollow("u-1")
    assert answer(core, question(range(8), model="chat")) == {"u-0": (8, 8, 8)}


def routed_and_told(core: ConductorCore, prompt: range, answered: bool = True) -> PublisherView:
    (view,) = core.follow("u-0", ["qwen"])
    tell(view, stored(range(5000, 5004), [9999]))
    answer(core, question(prompt, 7))
    assert core.routed("coordinator", PrefixRouted(7, "u-0"))
    assert answer(core, question(prompt))["u-0"] == (0, 0, 512)
    if answered:
        tell(view, stored(prompt, range(len(prompt) // 4)))
    return view


def test_what_events_told_of_a_routed_prompt_counts_and_nothing_else(core: ConductorCore) -> None:
    prompt = range(600)
    view = routed_and_told(core, prompt)
    assert answer(core, question(prompt))["u-0"] == (600, 600, 600)
    tell(view, *(removed(number) for number in range(149, 99, -1)))
    assert answer(core, question(prompt))["u-0"] == (400, 400, 400)
    tell(view, CLEARED)
    assert answer(core, question(prompt)) == {}


def test_a_prompt_that_was_held_already_is_not_expected_after_it_was_evicted(core: ConductorCore) -> None:
    prompt = range(600)
    view = routed_and_told(core, prompt)
    answer(core, question(prompt, 8))
    assert core.routed("coordinator", PrefixRouted(8, "u-0"))
    tell(view, *(removed(number) for number in range(149, 99, -1)))
    assert answer(core, question(prompt))["u-0"] == (400, 400, 400)
    tell(view, *(removed(number) for number in range(99, -1, -1)))
    assert answer(core, question(prompt)) == {}


def test_a_prompt_that_was_refused_is_not_expected(core: ConductorCore) -> None:
    routed_and_told(core, range(600), answered=False)
    assert core.routed("coordinator", PrefixRouted(7, "u-0", in_vain=True))
    assert answer(core, question(range(600))) == {}
    assert core.size().routed_prompts == 0
