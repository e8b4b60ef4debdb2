"""64-bit keys of a prompt's beginnings, one for each full block, made from tokens alone.

The first block's key is a digest of its tokens that begins with the prompt's root: one call says that nobody holds
anything. A longer beginning's sum is that of the first block and of all tokens after it, each times a number that
belongs to the token's place, plus a number for each block (multilinear hashing, modulo 2^64). Its key is the sum with
the upper half folded into the lower, so that all bits of the sum decide where it stands in a table. The numbers are
random, odd, and secret for each process: whoever chooses prompts cannot aim at equal keys. A sum needs nothing of what
is between: the key of any one beginning is one product of two arrays, 128k tokens in less than a tenth of a
millisecond, and goes on from any shorter one.

Model, adapter, cache salt and block size are in the key that a prompt begins with. Media are placeholders in the
tokens; what they show is added for each block that they overlap.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from operator import mul

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from pymotor.fleet.prefix_queries import MOST_TOKENS
from pymotor.kv_conductor.key_table import Keys

LONGEST = 1 << 16
"""Blocks; a prompt's later ones have no key."""
LONGEST_BLOCK = 4096
"""Tokens that a block may have."""
_PIECE = 8192
"""Tokens that are widened at once: they stay in the processor's cache."""
_MOST_ROOTS = 4096
_LOW_64_BITS = (1 << 64) - 1
_HALF = np.uint64(32)
_WIDE = np.dtype(np.uint64)


def most_blocks(block_size: int) -> int:
    """How many blocks of a prompt have a key."""
    return min(LONGEST, MOST_TOKENS // block_size)


class PromptKeys:
    """Makes keys; two of the same secret make the same. Callers see to it that no block comes after `most_blocks`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        random = np.random.Generator(np.random.PCG64(list(secret)))
        odd = np.uint64(1)
        # Arrays and what numpy sees of them are the same memory: one key is sooner made without numpy.
        of_block = random.integers(0, 1 << 64, LONGEST, np.uint64, endpoint=False) | odd
        self._of_blocks_plain = array("Q", (0,)) + array("Q", np.add.accumulate(of_block).tobytes())
        self._of_blocks = np.frombuffer(self._of_blocks_plain, np.uint64)
        """The sum of the numbers of the first so many blocks."""
        self._of_token_plain = array("Q", (random.integers(0, 1 << 64, MOST_TOKENS, np.uint64) | odd).tobytes())
        self._of_token = np.frombuffer(self._of_token_plain, np.uint64)
        self._numbers_by_size: dict[int, Keys] = {}
        self._roots: dict[tuple[str, str, int], int] = {}

    def root(self, model: str, adapter: str, salt: str, block_size: int) -> int:
        """The key that prompts of this model begin with, before their first block."""
        if salt:
            return self._root(model, adapter, salt, block_size)
        known = self._roots.get((model, adapter, block_size))
        if known is None:
            if len(self._roots) == _MOST_ROOTS:
                self._roots.clear()
            known = self._roots[model, adapter, block_size] = self._root(model, adapter, salt, block_size)
        return known

    def _root(self, model: str, adapter: str, salt: str, block_size: int) -> int:
        words = msgspec.msgpack.encode((self._secret, model, adapter, salt, block_size))
        return int(xxhash.xxh3_64_intdigest(words))

    def first_key(self, root: int, tokens: bytes | memoryview, extra: int = 0) -> int:
        """The key of a prompt's first block, of 4 bytes for each token."""
        key = xxhash.xxh3_64_intdigest(tokens, root)
        return (key + self._of_extra(0, extra)) & _LOW_64_BITS if extra else key

    def keys_after(
        self,
        key: int,
        place: int,
        tokens: npt.NDArray[np.uint32],
        block_size: int,
        extras: Mapping[int, int] | None = None,
    ) -> Keys:
        """The keys of the full blocks that `tokens` are, which follow the beginning that has `key` and `place` blocks.

        `extras`: what is added for a block, by its place in the prompt (`media_extra`).
        """
        sums = self._added_until(place, tokens, block_size, extras)
        count = len(sums)
        if count and not place:
            first_key = self.first_key(key, tokens[:block_size].tobytes(), extras.get(0, 0) if extras else 0)
            sums += np.uint64((key_of(first_key) - int(sums[0]) - self._of_blocks_plain[1]) & _LOW_64_BITS)
        else:
            sums += np.uint64((key_of(key) - self._of_blocks_plain[place]) & _LOW_64_BITS)
        sums += self._of_blocks[place + 1 : place + count + 1]
        sums ^= sums >> _HALF
        return sums

    def keys_by_length(
        self,
        key: int,
        place: int,
        tokens: npt.NDArray[np.uint32],
        block_size: int,
        extras: Mapping[int, int] | None = None,
    ) -> Callable[[int], int]:
        """As `keys_after`, for who needs few of them: what makes the key of the first so many blocks of the prompt.
        `place` is at least 1."""
        of_blocks, first = self._of_blocks_plain, place + 1
        added_until = self._added_until(place, tokens, block_size, extras).item
        before = key_of(key) - of_blocks[place]

        def key_of_first(blocks: int) -> int:
            total: int = (before + added_until(blocks - first) + of_blocks[blocks]) & _LOW_64_BITS
            return total ^ total >> 32

        return key_of_first

    def _added_until(
        self, place: int, tokens: npt.NDArray[np.uint32], block_size: int, extras: Mapping[int, int] | None
    ) -> Keys:
        """What the full blocks that `tokens` are, up to each of them, add to a sum besides the numbers of blocks; the
        first has `place` blocks before it."""
        count = len(tokens) // block_size
        blocks = tokens.astype(_WIDE)
        blocks.shape = (count, block_size)
        added = _products(blocks, self._numbers_of(block_size)[place : place + count])
        if extras:
            for block, extra in extras.items():
                if place <= block < place + count:
                    own = int(added[block - place]) + self._of_extra(block, extra)
                    added[block - place] = own & _LOW_64_BITS
        return _running_sums(added)

    def _numbers_of(self, block_size: int) -> Keys:
        """Those of the tokens, a row for each block."""
        numbers = self._numbers_by_size.get(block_size)
        if numbers is None:
            blocks = MOST_TOKENS // block_size
            numbers = self._of_token[: blocks * block_size].reshape(blocks, block_size)
            self._numbers_by_size[block_size] = numbers
        return numbers

    def key_after(
        self,
        key: int,
        place: int,
        tokens: npt.NDArray[np.uint32],
        block_size: int,
        extras: Mapping[int, int] | None = None,
    ) -> int:
        """The last of `keys_after` alone, of `tokens` that are full blocks."""
        if not place:
            key = self.first_key(key, tokens[:block_size].tobytes(), extras.get(0, 0) if extras else 0)
            place, tokens = 1, tokens[block_size:]
        of_blocks, of_token, length = self._of_blocks_plain, self._of_token, len(tokens)
        count = length // block_size
        first = place * block_size
        total = (key ^ key >> 32) + of_blocks[place + count] - of_blocks[place]
        if length <= _PIECE:
            total += int(tokens.astype(_WIDE).dot(of_token[first : first + length]))
        else:
            for start in range(0, length, _PIECE):
                piece = tokens[start : start + _PIECE].astype(_WIDE)
                total += int(piece.dot(of_token[first + start : first + start + len(piece)]))
        if extras:
            for block, extra in extras.items():
                if place <= block < place + count:
                    total += self._of_extra(block, extra)
        total &= _LOW_64_BITS
        return total ^ total >> 32

    def next_key(self, key: int, place: int, tokens: array[int], extra: int = 0) -> int:
        """The key of the one block that follows the beginning that has `key` and `place` blocks."""
        if not place:
            return self.first_key(key, tokens.tobytes(), extra)
        of_blocks, first = self._of_blocks_plain, place * len(tokens)
        numbers = self._of_token_plain[first : first + len(tokens)]
        total: int = sum(map(mul, numbers, tokens), (key ^ key >> 32) + of_blocks[place + 1] - of_blocks[place])
        if extra:
            total += self._of_extra(place, extra)
        total &= _LOW_64_BITS
        return total ^ total >> 32

    def _of_extra(self, block: int, extra: int) -> int:
        of_blocks = self._of_blocks_plain
        return (extra * (of_blocks[block + 1] - of_blocks[block])) & _LOW_64_BITS


def _summed_products(blocks: Keys, numbers: Keys) -> Keys:
    products: Keys = np.einsum("ij,ij->i", blocks, numbers)
    return products


_running_sums: Callable[[Keys], Keys] = np.add.accumulate
_products: Callable[[Keys, Keys], Keys] = getattr(np, "vecdot", _summed_products)
"""The sum of each row's products; numpy 2 has it with less ado."""


def key_of(total: int) -> int:
    """A sum's key, and a key's sum."""
    return total ^ total >> 32


def media_extra(identifier: str, offset: int) -> int:
    """What a media item adds to a block that it overlaps; `offset` is the item's start less the block's, in tokens."""
    return int(xxhash.xxh3_64_intdigest(identifier.encode(), offset & _LOW_64_BITS))


def other_extra(value: object) -> int:
    """What anything else adds that an engine says a block depends on: such a block matches no question."""
    return int(xxhash.xxh3_64_intdigest(repr(value).encode(), 1))
