"""The model that is simulated: integer arithmetic in place of attention, with attention's dependencies.

A token enters as a 64-bit input: its id, or for a media token a value of the item's embedding. The KV of
position `i` is a state that depends on the inputs of positions 0 to `i`, as a transformer's does. The next
token depends on the KV of every position, and on nothing else. Both are sums, so a prompt is vectorised, a
decode step costs the same at every length, and the answer does not depend on block size or chunking.

`mix` is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""One unsigned 64-bit word for each position."""

_MASK = (1 << 64) - 1
_POSITION = 0x9E3779B97F4A7C15
_ATTENTION = 0xD1B54A32D192ED03
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB

_POSITION_WORD = np.uint64(_POSITION)
_ATTENTION_WORD = np.uint64(_ATTENTION)
_FIRST_WORD = np.uint64(_FIRST)
_SECOND_WORD = np.uint64(_SECOND)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)

FIRST_PRINTABLE = 32
PRINTABLE = 95
EOS_ONE_IN = 128
"""How rarely a token ends the answer: once in this many on average."""


def mix(word: int) -> int:
    """A well-stirred 64-bit word for each 64-bit word, one to one."""
    word = ((word ^ (word >> 30)) * _FIRST) & _MASK
    word = ((word ^ (word >> 27)) * _SECOND) & _MASK
    return word ^ (word >> 31)


def mix_words(words: Words) -> Words:
    """`mix` of each word."""
    words = (words ^ (words >> _SHIFT_30)) * _FIRST_WORD
    words = (words ^ (words >> _SHIFT_27)) * _SECOND_WORD
    mixed: Words = words ^ (words >> _SHIFT_31)
    return mixed


def prefill(state: int, inputs: Words, first_position: int) -> Words:
    """The KV of consecutive positions, after a context whose last KV is `state` (0 for none)."""
    positions = np.arange(first_position, first_position + len(inputs), dtype=np.uint64)
    states = np.cumsum(mix_words(inputs + positions * _POSITION_WORD), dtype=np.uint64)
    states += np.array(state, dtype=np.uint64)
    return states


def decode(state: int, token: int, position: int) -> int:
    """The KV of one position: `prefill` for a single token, in plain integers."""
    return (state + mix((token + position * _POSITION) & _MASK)) & _MASK


def attend(states: Words, first_position: int) -> int:
    """What attention reads from the KV of consecutive positions; sums over all positions make a readout."""
    positions = np.arange(first_position, first_position + len(states), dtype=np.uint64)
    return int(mix_words(states ^ (positions * _ATTENTION_WORD)).sum(dtype=np.uint64))


def attend_one(state: int, position: int) -> int:
    """`attend` for a single position, in plain integers."""
    return mix(state ^ ((position * _ATTENTION) & _MASK))


def add(readout: int, part: int) -> int:
    """The readout of two runs of positions together."""
    return (readout + part) & _MASK


def next_token(readout: int, position: int, seed: int | None, eos: int, eos_allowed: bool) -> int:
    """The token that follows: a printable character's byte, or `eos` once in `EOS_ONE_IN`.

    Greedy where `seed` is None; otherwise each seed has its own answer.
    """
    word = mix((readout + position * _POSITION) & _MASK)
    if seed is not None:
        word = mix((word + mix(seed & _MASK)) & _MASK)
    if eos_allowed and word % EOS_ONE_IN == 0:
        return eos
    return FIRST_PRINTABLE + (word >> 8) % PRINTABLE


def embed(content_digest: bytes, tokens: int) -> Words:
    """What the encoder makes of an item: a word for each of its tokens, all from the digest of its content."""
    return np.frombuffer(hashlib.shake_128(content_digest).digest(8 * tokens), dtype=np.dtype("<u8")).astype(np.uint64)
