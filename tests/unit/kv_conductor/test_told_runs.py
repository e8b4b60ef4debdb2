"""Questions go along what single events told; what they find is what they find without."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from played_events import CLEARED, SIZE, answer, question, removed, stored, tell

from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.key_table import Keys
from pymotor.kv_conductor.publisher_view import PublisherView
from pymotor.kv_conductor.told_runs import ToldRuns


@pytest.fixture
def core() -> ConductorCore:
    return ConductorCore(lambda: 0.0, secret=b"0123456789abcdef")


def tell_prompt(view: PublisherView, tokens: list[int], steps: list[int]) -> None:
    """In one event for each step, of so many blocks; hashes are places in the prompt."""
    start = 0
    for step in steps:
        own = tokens[start * SIZE : (start + step) * SIZE]
        tell(view, stored(own, range(start, start + step), parent=start - 1 if start else None))
        start += step


def held(core: ConductorCore, tokens: list[int]) -> dict[str, int]:
    return {name: figures[0] // SIZE for name, figures in answer(core, question(tokens)).items()}


@pytest.mark.parametrize("last", ["whole", "steps", "half", "start"])
def test_prompts_that_leave_runs_anywhere_are_found_to_the_block(core: ConductorCore, last: str) -> None:
    choose = random.Random(5)
    tokens = [choose.randrange(1 << 18) for _ in range(300 * SIZE)]
    steps = {"whole": [300], "steps": [64, 1, 100, 64, 15, 56], "half": [100, 50], "start": [20], "one": [1]}
    for name in sorted(steps, key=lambda name: name == last):
        tell_prompt(core.follow(name, ["qwen"])[0], tokens, steps[name])
    assert len(core.index.runs) == 3
    for place in (*range(1, 40), 63, 64, 65, 74, 75, 76, 99, 100, 101, 149, 150, 151, 224, 225, 226, 299, 300):
        other = [*tokens[: place * SIZE], *[token ^ 1 for token in tokens[place * SIZE :]]]
        expected = {name: min(place, sum(own)) for name, own in steps.items()}
        assert held(core, tokens[: place * SIZE]) == expected
        assert held(core, other) == expected


def test_a_run_whose_end_went_is_not_claimed(core: ConductorCore) -> None:
    (view,) = core.follow("u-0", ["qwen"])
    tokens = list(range(100 * SIZE))
    tell_prompt(view, tokens, [100])
    for gone, left in ((99, 99), (80, 80), (3, 3)):
        tell(view, removed(gone))
        assert held(core, tokens) == {"u-0": left}
    tell(view, removed(0))
    assert held(core, tokens) == {}


def test_of_runs_of_equal_first_blocks_each_prompt_finds_its_own(core: ConductorCore) -> None:
    first, second = (core.follow(name, ["qwen"])[0] for name in ("u-0", "u-1"))
    prompts = [[*range(30 * SIZE), *range(own, own + 30 * SIZE)] for own in (5000, 6000)]
    tell_prompt(first, prompts[0], [60])
    tell_prompt(second, prompts[1], [60])
    assert [held(core, prompt) for prompt in prompts] == [{"u-0": 60, "u-1": 30}, {"u-0": 30, "u-1": 60}]


def test_salts_adapters_and_media_are_kept_apart(core: ConductorCore) -> None:
    (view,) = core.follow("u-0", ["qwen"])
    tokens = list(range(40 * SIZE))
    tell_prompt(view, tokens, [40])
    assert answer(core, question(tokens, salt="salt")) == {}
    assert answer(core, question(tokens, adapter="french")) == {}
    extra_keys = [None, [["cat", 0]], *[None] * 38]
    tell(view, stored(tokens, range(100, 140), extra_keys=extra_keys), removed(*range(1, 40)))
    assert held(core, tokens) == {"u-0": 1}


def test_media_do_not_go_along_a_run_of_their_placeholders(core: ConductorCore) -> None:
    seen, plain = (core.follow(name, ["qwen"])[0] for name in ("u-0", "u-1"))
    image = 900
    tokens = [*range(4), *[image] * 8, *range(100, 160)]
    keys = [None, [["cat", 0]], [["cat", -4]], *[None] * 15]
    tell(seen, stored(tokens, range(18), extra_keys=keys), CLEARED)
    tell(plain, stored(tokens, range(18)))
    asked = question([*range(4), image, *range(100, 160)], media=[(4, "cat")])
    assert {name: figures[0] // SIZE for name, figures in answer(core, asked).items()} == {"u-1": 1}


def test_what_others_told_before_is_taken_without_its_tokens_only_where_all_is_equal(core: ConductorCore) -> None:
    views = [core.follow(f"u-{number}", ["qwen"])[0] for number in range(4)]
    tokens = list(range(1000, 1000 + 40 * SIZE))
    for view in views:
        tell(view, stored(range(SIZE), [1000]))
    for view in views[:2]:
        tell(view, stored(tokens, range(40)))
    tell(views[2], stored(tokens, range(40), parent=1000))
    tell(views[3], stored(tokens, range(40), lora_id=1, lora_name="french"))
    assert held(core, tokens) == {"u-0": 40, "u-1": 40}
    assert held(core, [*range(SIZE), *tokens]) == {"u-0": 1, "u-1": 1, "u-2": 41, "u-3": 1}
    assert answer(core, question(tokens, adapter="french")) == {"u-3": (40 * SIZE,) * 3}


def keys_of(first: int) -> Keys:
    return np.arange(first, first + 16, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def test_a_run_that_is_told_again_stays_longer_than_one_that_is_not() -> None:
    runs = ToldRuns(most=2)
    for first in (100, 200, 100, 300):
        runs.hear(0, keys_of(first), memoryview(bytes(16)))
    assert [runs.following(keys_of(first).item(0)) is not None for first in (100, 200, 300)] == [True, False, True]


def test_runs_take_about_as_much_memory_as_they_say() -> None:
    keys = [keys_of(100 * number) for number in range(1 << 12)]
    runs = ToldRuns()
    tokens = memoryview(bytes(16))
    tracemalloc.start()
    try:
        for own in keys:
            runs.hear(0, own, tokens)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= runs.memory_bytes <= 1.2 * taken
