"""A question's prompt as keys, made only as far as somebody asks for them."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt
import xxhash

from pymotor.fleet.prefix_queries import MOST_TOKENS, PrefixQuery
from pymotor.kv_conductor.key_table import Keys
from pymotor.kv_conductor.media_items import WrittenPrompt
from pymotor.kv_conductor.prompt_keys import LONGEST_BLOCK, PromptKeys, media_extra, most_blocks
from pymotor.kv_conductor.told_runs import Reached, Run

_TOKENS = np.dtype("<u4")
_ITEM_BYTES = 160
"""Of a tuple, a number and an empty text."""
_SURELY = MOST_TOKENS // LONGEST_BLOCK
"""So many blocks of any size have keys."""


class Beginnings:
    """The keys of one prompt's beginnings, at one block size."""

    __slots__ = ("_extras", "_keys", "_made", "_tokens", "block_size", "count", "plain", "root")

    def __init__(self, keys: PromptKeys, root: int, prompt: WrittenPrompt, block_size: int) -> None:
        self.block_size = block_size
        count = len(prompt.tokens) // (4 * block_size)
        self.count = count if count <= _SURELY else min(count, most_blocks(block_size))
        """Full blocks."""
        self.root = root
        """The key of no block at all."""
        self._keys = keys
        self._tokens = prompt.tokens
        self._extras = _MediaExtras(prompt, block_size) if prompt.items else None
        self.plain = not prompt.items
        """Whether keys depend on nothing but tokens."""
        self._made: Keys | None = None

    def first(self) -> int:
        """The key of the first block; there is one."""
        extra = self._extras.between(0, 1).get(0, 0) if self._extras else 0
        return self._keys.first_key(self.root, self._tokens[: 4 * self.block_size], extra)

    def after(self, key: int, place: int, count: int) -> int:
        """The key of the first `count` blocks; `key` is that of the first `place`."""
        extras = self._extras.between(place, count) if self._extras else None
        return self._keys.key_after(key, place, self._between(place, count), self.block_size, extras)

    def next_first(self, key: int, place: int) -> int:
        """The key of the block after the first `place` blocks, which have `key`; there is one."""
        size = 4 * self.block_size
        return self._keys.next_key(key, place, array("I", self._tokens[place * size : (place + 1) * size].tobytes()))

    def along(self, run: Run, first_key: int, place: int) -> Reached | None:
        """How far the prompt, whose block after the first `place` has this key, goes along the run; None: not as far
        as its first part. The prompt has no media."""
        size = 4 * self.block_size
        left = self.count - place
        tokens = self._tokens[place * size :]
        blocks, digests, digest_of = run.blocks, run.digests, xxhash.xxh3_64_intdigest
        whole = blocks[-1]
        if whole <= left and digest_of(tokens[: whole * size], first_key) == digests[-1]:
            return whole, run.keys[-1], 0
        # Of the others the longest part is looked for by halves.
        shared, differs = -1, len(blocks) - 1
        while differs - shared > 1:
            part = (shared + differs) // 2
            length = blocks[part]
            if length <= left and digest_of(tokens[: length * size], first_key) == digests[part]:
                shared = part
            else:
                differs = part
        if shared < 0:
            return None
        reached, leaves_within = blocks[shared], min(left, blocks[differs])
        return reached, run.keys[shared], leaves_within if leaves_within > reached else 0

    def by_length(self, key: int, place: int, count: int) -> Callable[[int], int]:
        """Likewise for all beginnings that are longer than `place` blocks, at least 1, up to `count`: what makes the
        key of one of so many blocks."""
        extras = self._extras.between(place, count) if self._extras else None
        return self._keys.keys_by_length(key, place, self._between(place, count), self.block_size, extras)

    def _all_after(self, key: int, place: int, count: int) -> Keys:
        extras = self._extras.between(place, count) if self._extras else None
        return self._keys.keys_after(key, place, self._between(place, count), self.block_size, extras)

    def _between(self, place: int, count: int) -> npt.NDArray[np.uint32]:
        size = self.block_size
        return np.frombuffer(self._tokens, _TOKENS, (count - place) * size, 4 * place * size)

    def until(self, count: int) -> Keys:
        """At least the first so many keys; `count` is at most the number of blocks."""
        made = self._made
        if made is None:
            made = self._all_after(self.root, 0, count)
        elif count > len(made):
            made = np.concatenate((made, self._all_after(int(made[-1]), len(made), count)))
        self._made = made
        return made


class _MediaExtras:
    """What media add to the keys of a prompt's blocks, made only as far as keys are: a prompt of a few long items is
    tens of thousands of blocks, of which mostly nobody holds the first."""

    __slots__ = ("_block_size", "_items", "_made", "_next", "_until")

    def __init__(self, prompt: WrittenPrompt, block_size: int) -> None:
        self._items = prompt.items
        self._block_size = block_size
        self._made: dict[int, int] = {}
        self._until = 0
        """Blocks of which all is made."""
        self._next = 0
        """The first item that overlaps later ones, or may."""

    def between(self, place: int, count: int) -> dict[int, int]:
        """Those of the first `count` blocks without the first `place`."""
        if count > self._until:
            self._make(count)
        made = self._made
        return {block: made[block] for block in range(place, count) if block in made}

    def _make(self, until: int) -> None:
        made, size = self._made, self._block_size
        while self._next < len(self._items):
            identifier, start, length = self._items[self._next]
            ends = (start + length - 1) // size + 1
            for block in range(max(start // size, self._until), min(ends, until)):
                extra = made.get(block, 0) + media_extra(identifier, start - block * size)
                made[block] = extra & (1 << 64) - 1
            if ends > until:
                # So the next one begins no sooner.
                break
            self._next += 1
        self._until = until


class AskedQuestions:
    """The last questions, for who says later where the prompt went, perhaps more than once. Bounded in bytes and in
    number: the more of them are kept, the colder is the memory that the next one is written to."""

    def __init__(self, most: int = 2048, most_bytes: int = 64 << 20) -> None:
        self._questions: OrderedDict[tuple[Hashable, int], tuple[PrefixQuery, int]] = OrderedDict()
        """Each with its bytes."""
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def memory_bytes(self) -> int:
        """About."""
        return self._bytes + 400 * len(self._questions)

    def keep(self, asker: Hashable, question: PrefixQuery) -> None:
        """Until it is one of too many, or its asker is gone."""
        questions, key, size = self._questions, (asker, question.number), _bytes_of(question)
        if key in questions:
            self._drop(key)
        questions[key] = question, size
        self._bytes += size
        while self._bytes > self._most_bytes or len(questions) > self._most:
            self._bytes -= questions.popitem(last=False)[1][1]

    def find(self, asker: Hashable, number: int) -> PrefixQuery | None:
        """The question; None if it is not kept."""
        kept = self._questions.get((asker, number))
        return None if kept is None else kept[0]

    def forget(self, asker: Hashable) -> None:
        """All questions of somebody who is gone."""
        for own in [own for own in self._questions if own[0] == asker]:
            self._drop(own)

    def _drop(self, key: tuple[Hashable, int]) -> None:
        self._bytes -= self._questions.pop(key)[1]


def _bytes_of(question: PrefixQuery) -> int:
    """What it takes besides what every question does, about; a character may have four bytes."""
    size = len(question.tokens) + 4 * len(question.model)
    if question.adapter or question.salt:
        size += 4 * (len(question.adapter) + len(question.salt))
    if question.media:
        # The frame that they came in is kept for the tokens in it.
        size += sum(_ITEM_BYTES + 2 * 4 * len(identifier) for _, identifier in question.media)
    return size
