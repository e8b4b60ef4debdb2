"""Keys of beginnings."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from pymotor.kv_conductor.prompt_keys import LONGEST_BLOCK, PromptKeys, most_blocks

TOKENS = np.random.default_rng(1).integers(0, 150_000, 16 * 300).astype(np.uint32)


@pytest.fixture
def keys() -> PromptKeys:
    return PromptKeys(b"secret")


def test_all_at_once_in_parts_and_one_by_one_are_the_same(keys: PromptKeys) -> None:
    extras = {0: 5, 7: (1 << 64) - 1, 100: 9}
    whole = keys.keys_after(77, 0, TOKENS, 16, extras)
    parts = np.concatenate((whole[:90], keys.keys_after(int(whole[89]), 90, TOKENS[90 * 16 :], 16, extras)))
    assert (whole == parts).all()
    key, single = 77, []
    for block in range(300):
        key = keys.next_key(
            key, block, array("I", TOKENS[block * 16 : block * 16 + 16].tobytes()), extras.get(block, 0)
        )
        single.append(key)
    assert whole.tolist() == single


def test_one_key_alone_is_the_same_from_wherever_it_is_made(keys: PromptKeys) -> None:
    extras = {0: 5, 7: (1 << 64) - 1, 100: 9}
    tokens = np.random.default_rng(2).integers(0, 1 << 32, 16 * 1200).astype(np.uint32)
    whole = keys.keys_after(77, 0, tokens, 16, extras).tolist()
    for place, count in ((0, 1), (0, 8), (0, 1200), (1, 100), (6, 8), (8, 101), (101, 1200)):
        before = whole[place - 1] if place else 77
        assert keys.key_after(before, place, tokens[place * 16 : count * 16], 16, extras) == whole[count - 1]


@pytest.mark.parametrize("block_size", [1, 16, 128, LONGEST_BLOCK])
def test_the_last_block_that_has_a_key(keys: PromptKeys, block_size: int) -> None:
    place = most_blocks(block_size) - 1
    tokens = np.arange(block_size, dtype=np.uint32)
    key = keys.next_key(5, place, array("I", tokens.tobytes()))
    assert keys.key_after(5, place, tokens, block_size) == key == int(keys.keys_after(5, place, tokens, block_size)[0])


@pytest.mark.parametrize("place", [0, 1])
def test_tokens_that_differ_in_their_high_bits_alone_spread_over_a_table(keys: PromptKeys, place: int) -> None:
    found = {keys.next_key(77, place, array("I", [number << 17] * 16)) % 1024 for number in range(1024)}
    assert len(found) > 128


def test_every_token_every_place_and_the_root_matter(keys: PromptKeys) -> None:
    whole = keys.keys_after(77, 0, TOKENS, 16)
    assert len(set(whole.tolist())) == 300
    for place in (0, 15, 16, 2000):
        changed = TOKENS.copy()
        changed[place] ^= 1
        other = keys.keys_after(77, 0, changed, 16)
        assert (whole == other).tolist() == [block < place // 16 for block in range(300)]
    swapped = TOKENS.copy()
    swapped[:16], swapped[16:32] = TOKENS[16:32], TOKENS[:16]
    assert not (keys.keys_after(77, 0, swapped, 16) == whole).any()
    assert not (keys.keys_after(78, 0, TOKENS, 16) == whole).any()
    assert len(set(keys.keys_after(77, 0, np.zeros(1600, np.uint32), 16).tolist())) == 100


def test_roots_differ_in_each_part_and_by_secret(keys: PromptKeys) -> None:
    words = [("m", "", "", 16), ("n", "", "", 16), ("m", "a", "", 16), ("m", "", "a", 16), ("m", "", "", 32)]
    roots = [keys.root(*own) for own in words]
    assert len({*roots, PromptKeys(b"other").root(*words[0])}) == 6
    assert roots == [keys.root(*own) for own in words]
