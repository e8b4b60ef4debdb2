"""Prompts with media: engines write many tokens for an item, questions have one placeholder and its identifier."""

from __future__ import annotations

import msgspec
import pytest
from played_events import CLEARED, answer, question, stored, tell

from pymotor.fleet.prefix_queries import MOST_TOKENS, PrefixRouted, bounded
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.events import BlocksStored, decode_batch, low_64_bits_of
from pymotor.kv_conductor.extra_keys import ExtraKeys
from pymotor.kv_conductor.media_items import MediaItems, write_out
from pymotor.kv_conductor.publisher_view import PublisherView

IMAGE = 151_655
TEXT = [1, 2, 3, 4, 5, 6]
AFTER = [7, 8, 9, 10, 11, 12]


@pytest.fixture
def core() -> ConductorCore:
    return ConductorCore(lambda: 0.0)


@pytest.fixture
def view(core: ConductorCore) -> PublisherView:
    return core.follow("u-0", ["qwen"])[0]


def held(core: ConductorCore, tokens: list[int], *media: tuple[int, str], endpoint: str = "u-0") -> int:
    return answer(core, question(tokens, media=list(media))).get(endpoint, (0, 0, 0))[0]


def with_image(identifier: str, length: int = 12, **more: int) -> dict[str, object]:
    """Six tokens, an image of so many, six tokens: blocks of four, of which the image touches 1 to 4."""
    tokens = [*TEXT, *[IMAGE] * length, *AFTER]
    last = (6 + length - 1) // 4
    keys = [[[identifier, 6 - 4 * block]] if 1 <= block <= last else None for block in range(len(tokens) // 4)]
    hashes = [more.get("first", 0) + block for block in range(len(keys))]
    return stored(tokens, hashes, extra_keys=keys)


def test_an_item_that_was_seen_is_written_out(core: ConductorCore, view: PublisherView) -> None:
    tell(view, with_image("cat"))
    asked = [*TEXT, IMAGE, *AFTER]
    assert held(core, asked, (6, "cat")) == 24
    assert held(core, [*TEXT, IMAGE, 99, *AFTER], (6, "cat")) == 16
    assert core.explain(question(asked, media=[(6, "cat")])).prompt_tokens == 24


def test_an_item_of_a_long_name(core: ConductorCore, view: PublisherView) -> None:
    tell(view, with_image("cat" * 100))
    asked = [*TEXT, IMAGE, *AFTER]
    assert held(core, asked, (6, bounded("cat" * 100))) == 24
    assert held(core, asked, (6, bounded("cat" * 101))) == 4


def test_another_item_in_its_place_is_another_prompt(core: ConductorCore, view: PublisherView) -> None:
    tell(view, with_image("cat"))
    other = core.follow("u-1", ["qwen"])[0]
    tell(other, with_image("dog", first=50))
    asked = [*TEXT, IMAGE, *AFTER]
    assert answer(core, question(asked, media=[(6, "cat")])) == {"u-0": (24, 24, 24), "u-1": (4, 4, 4)}
    assert answer(core, question(asked, media=[(6, "dog")])) == {"u-0": (4, 4, 4), "u-1": (24, 24, 24)}


def test_a_question_ends_before_an_item_that_is_not_known(core: ConductorCore, view: PublisherView) -> None:
    tell(view, with_image("cat"))
    asked = [*TEXT, IMAGE, *AFTER]
    assert held(core, asked, (6, "dog")) == 4
    assert not core.explain(question(asked, media=[(6, "dog")])).whole
    assert held(core, [*TEXT, *[IMAGE] * 12, *AFTER]) == 4, "placeholders without the item are other content"


def test_the_end_of_an_item_must_have_been_seen(core: ConductorCore, view: PublisherView) -> None:
    tokens = [*TEXT, *[IMAGE] * 6]
    tell(view, stored(tokens, [0, 1, 2], extra_keys=[None, [["cat", 2]], [["cat", -2]]]))
    asked = [*TEXT, IMAGE, *AFTER]
    assert held(core, asked, (6, "cat")) == 4
    rest = [*[IMAGE] * 5, *AFTER, 13]
    tell(view, stored(rest, [3, 4, 5], parent=2, extra_keys=[[["cat", -6]], [["cat", -10]], None]))
    assert held(core, [*asked, 13], (6, "cat")) == 24


def test_an_item_that_ends_with_its_block(core: ConductorCore, view: PublisherView) -> None:
    tokens = [*TEXT[:4], *[IMAGE] * 4, *AFTER[:4]]
    tell(view, stored(tokens, [0, 1, 2], extra_keys=[None, [["cat", 0]], None]))
    assert held(core, [*TEXT[:4], IMAGE, *AFTER[:4]], (4, "cat")) == 12


def test_items_side_by_side_and_items_of_several_tokens(core: ConductorCore, view: PublisherView) -> None:
    row = [IMAGE, IMAGE, 98]
    tokens = [*TEXT[:1], *row * 3, *[IMAGE] * 6, *AFTER[:4]]
    keys = [[["grid", 1]], [["grid", -3]], [["grid", -7], ["cat", 2]], [["cat", -2]], None]
    tell(view, stored(tokens, range(5), extra_keys=keys))
    assert held(core, [*TEXT[:1], IMAGE, IMAGE, *AFTER[:4]], (1, "grid"), (2, "cat")) == 20


def test_what_a_restarted_engine_still_owed_is_forgotten(core: ConductorCore, view: PublisherView) -> None:
    tell(view, stored([*TEXT, *[IMAGE] * 6], [0, 1, 2], extra_keys=[None, [["cat", 2]], [["cat", -2]]]))
    view.clear()
    tell(view, with_image("cat", 20))
    assert held(core, [*TEXT, IMAGE, *AFTER], (6, "cat")) == 32


def hear(items: MediaItems, name: str, tokens: int, first: int = 0, *, ended: bool = False) -> None:
    """Blocks that begin with this item, or go on in it after so many tokens."""
    keys: list[object] = [[[name, -4 * block - first]] for block in range(tokens // 4)]
    content, hashes = [IMAGE] * tokens, range(first // 4 + 1, (first + tokens) // 4 + 1 + ended)
    if ended:
        keys, content = [*keys, None], [*content, *TEXT[:4]]
    told = stored(content, hashes, parent=first // 4 if first else None, extra_keys=keys)
    (event,) = decode_batch(msgspec.msgpack.encode([1.0, [told], None])).events
    assert isinstance(event, BlocksStored)
    items.hear(0, "qwen", event, ExtraKeys(event), low_64_bits_of(event.block_hashes), event.tokens())


def test_what_is_kept_of_items_is_bounded_whether_their_end_was_seen_or_not() -> None:
    items = MediaItems(most_items=1024, most_tokens=1000)
    for number in range(100):
        hear(items, f"begun-{number}", 40)
        assert items.memory_bytes == (4 * 40 + 300) * min(number + 1, 6), "a quarter of the tokens"
    for number in range(100):
        hear(items, f"seen-{number}", 200, ended=True)
        assert items.memory_bytes <= 4 * 1000 + 300 * (6 + 3)
    assert [items.known("qwen", f"seen-{number}") is not None for number in range(95, 100)] == [
        False,
        False,
        *[True] * 3,
    ]
    for number in range(100):
        hear(items, f"again-{number}", 40)
    assert len(items) == 3, "what is of use is not driven out"
    items.forget(0)
    assert items.memory_bytes == 3 * (4 * 200 + 300)


def test_an_item_that_goes_on_is_the_last_to_be_forgotten() -> None:
    items = MediaItems(most_items=1024, most_tokens=1000)
    hear(items, "long", 100)
    hear(items, "other", 60)
    hear(items, "long", 40, 100)
    hear(items, "another", 60)
    hear(items, "long", 40, 140, ended=True)
    assert len(items.known("qwen", "long") or ()) == 180
    assert items.memory_bytes == 4 * (180 + 60) + 2 * 300, "nothing of it is kept twice"


@pytest.mark.parametrize("length", [4, 8, 20])
def test_an_item_that_engines_write_otherwise_since_a_restart_is_learnt_anew(
    core: ConductorCore, view: PublisherView, length: int
) -> None:
    asked = [*TEXT, IMAGE, *AFTER]
    tell(view, with_image("cat"))
    assert held(core, asked, (6, "cat")) == 24
    tell(view, CLEARED, with_image("cat", length))
    assert held(core, asked, (6, "cat")) == (12 + length) // 4 * 4
    assert core.size().media_items == 1
    tell(view, with_image("cat", length, first=50))
    assert held(core, asked, (6, "cat")) == (12 + length) // 4 * 4


def test_a_prompt_of_long_items_is_found_to_the_block_where_others_leave_it(core: ConductorCore) -> None:
    """With items that begin and end within blocks, and of which several share one."""
    lengths = {"film": 3001, "cat": 5, "dog": 1, "song": 1024, "map": 2}
    tokens, spans, asked, media = list(TEXT), [], list(TEXT), []
    for name, length in lengths.items():
        spans.append((name, len(tokens), len(tokens) + length))
        media.append((len(asked), name))
        tokens += [IMAGE + len(name)] * length
        asked.append(IMAGE)
        if name in ("film", "song"):
            tokens += AFTER
            asked += AFTER
    tokens += AFTER
    asked += AFTER
    blocks = len(tokens) // 4
    keys = [
        [[name, start - 4 * block] for name, start, end in spans if start < 4 * block + 4 and end > 4 * block] or None
        for block in range(blocks)
    ]
    held_by = {}
    for number, count in enumerate((1, 2, 3, 255, 256, 257, 700, 753, 754, 1000, blocks)):
        (view,) = core.follow(f"u-{number}", ["qwen"])
        tell(view, stored(tokens[: 4 * count], range(count), extra_keys=keys[:count]))
        held_by[f"u-{number}"] = (4 * count,) * 3
    assert answer(core, question(asked, media=media)) == held_by
    assert core.match("coordinator", question(asked, 7, media=media))
    (routed,) = core.follow("routed", ["qwen"])
    tell(routed, stored([1] * 4, [1]))
    assert core.routed("coordinator", PrefixRouted(7, "routed"))
    assert answer(core, question(asked, media=media))["routed"] == (0, 0, len(tokens) // 256 * 256)


def test_a_prompt_is_written_out_as_far_as_prompts_are_compared(core: ConductorCore) -> None:
    """A short question may name a long item thousands of times."""
    (view,) = core.follow("u-0", ["qwen"])
    size, blocks = 16, 1024
    length = size * blocks
    event = stored([IMAGE] * length + [1] * size, range(blocks + 1), block_size=size)
    tell(view, event | {"extra_keys": [*[[["film", -size * block]] for block in range(blocks)], None]})
    media = [(place, "film") for place in range(4096)]
    written = write_out(core._media, "qwen", question([IMAGE] * 4096).tokens, media)
    assert (len(written.tokens), written.whole) == (4 * MOST_TOKENS, False)
    assert written.items == [("film", place * length, length) for place in range(MOST_TOKENS // length)]
    explained = core.explain(question([IMAGE] * 4096, media=media))
    assert (explained.prompt_tokens, explained.endpoints[0].on_device) == (MOST_TOKENS, length)
    # The last one that has room has it for a part.
    text = [5] * (MOST_TOKENS - length + 1)
    written = write_out(core._media, "qwen", question([*text, IMAGE, 6]).tokens, [(len(text), "film")])
    assert written.items == [("film", len(text), length - 1)]
    assert len(written.tokens) == 4 * MOST_TOKENS
