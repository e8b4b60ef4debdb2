"""The tokens that a media item becomes in the engine, learnt from events.

Engines put many placeholder tokens in the place of the one that a prompt has for an item, and their events name the
item in each block that it overlaps. Of an item whose end was seen the tokens are kept, so that a question that names
it can be written as the engine writes it. A question ends before its first item that is not known.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from pymotor.fleet.prefix_queries import MOST_TOKENS
from pymotor.kv_conductor.events import BlocksStored, low_64_bits
from pymotor.kv_conductor.extra_keys import ExtraKeys


class _Begun(msgspec.Struct):
    """An item whose end was not seen yet."""

    tokens: array[int]
    after: int
    """The engine's hash of the last block that it was seen in."""


class MediaItems:
    """What items became, for a bounded number of them and of tokens; the least lately used goes first. Those whose end
    was not seen have a quarter of the tokens at most: no more of them could drive out all that are of use."""

    def __init__(self, most_items: int = 65_536, most_tokens: int = 16_000_000) -> None:
        self._items: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._begun: OrderedDict[tuple[int, str], _Begun] = OrderedDict()
        self._most_items = most_items
        self._most_tokens = most_tokens
        self._tokens = 0
        """Of all of them."""
        self._begun_tokens = 0
        """Of those whose end was not seen."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def memory_bytes(self) -> int:
        """About."""
        return self._tokens * 4 + (len(self._items) + len(self._begun)) * 300

    def known(self, model: str, identifier: str) -> array[int] | None:
        """The tokens that this item becomes, if its end was seen."""
        tokens = self._items.get((model, identifier))
        if tokens is not None:
            self._items.move_to_end((model, identifier))
        return tokens

    def hear(
        self, slot: int, model: str, event: BlocksStored, extras: ExtraKeys, hashes: array[int], tokens: array[int]
    ) -> None:
        """Learns from the blocks of one event of one publisher."""
        size = event.block_size
        blocks_of: dict[tuple[str, int], list[int]] = {}
        for block, items in extras.media.items():
            for identifier, offset in items:
                blocks_of.setdefault((identifier, block * size + offset), []).append(block)
        starts = sorted(start for _, start in blocks_of)
        for (identifier, start), blocks in blocks_of.items():
            known = self._items.get((model, identifier))
            if known is not None:
                most = (blocks[-1] + 1) * size - start
                seen_whole = blocks[-1] + 1 < len(hashes)
                if start < 0 or _may_be(known, tokens[start : start + most], most - size, seen_whole):
                    continue
                # Engines were started anew with other settings of their processor.
                self._tokens -= len(self._items.pop((model, identifier)))
            after = bisect_right(starts, start)
            following = starts[after] if after < len(starts) else None
            ends = (blocks[-1] + 1) * size
            touched = following is not None and following <= ends
            if following is not None:
                ends = min(ends, following)
            before = array("I")
            if start < 0:
                begun = self._end_begun((slot, identifier))
                if begun is None or event.parent_block_hash is None:
                    continue
                if begun.after != low_64_bits(event.parent_block_hash) or len(begun.tokens) != -start:
                    continue
                before = begun.tokens
            seen = before + tokens[max(start, 0) : ends]
            certain = max(len(before), blocks[-1] * size - start, 1)
            length = _length(seen, certain)
            if length is None and (touched or blocks[-1] + 1 < len(hashes)):
                length = len(seen)
            if length is not None:
                self._keep(model, identifier, seen[:length])
            else:
                self._begin(slot, identifier, _Begun(seen, hashes[-1]))

    def forget(self, slot: int) -> None:
        """Items whose end a publisher still owes; its later events do not follow those before."""
        for key in [key for key in self._begun if key[0] == slot]:
            self._end_begun(key)

    def _keep(self, model: str, identifier: str, tokens: array[int]) -> None:
        self._items[model, identifier] = tokens
        self._tokens += len(tokens)
        self._keep_bounds()

    def _begin(self, slot: int, identifier: str, begun: _Begun) -> None:
        self._end_begun((slot, identifier))
        self._begun[slot, identifier] = begun
        self._begun_tokens += len(begun.tokens)
        self._tokens += len(begun.tokens)
        while len(self._begun) > self._most_items // 16 or self._begun_tokens > self._most_tokens // 4:
            self._end_begun(next(iter(self._begun)))
        self._keep_bounds()

    def _end_begun(self, key: tuple[int, str]) -> _Begun | None:
        begun = self._begun.pop(key, None)
        if begun is not None:
            self._begun_tokens -= len(begun.tokens)
            self._tokens -= len(begun.tokens)
        return begun

    def _keep_bounds(self) -> None:
        while self._items and (len(self._items) > self._most_items or self._tokens > self._most_tokens):
            self._tokens -= len(self._items.popitem(last=False)[1])


class WrittenPrompt(msgspec.Struct, frozen=True):
    """A prompt as engines write it, up to its first item that is not known, or to `MOST_TOKENS` tokens."""

    tokens: memoryview
    """4 bytes each."""
    items: Sequence[tuple[str, int, int]]
    """Identifier, place of the first token, number of tokens."""
    whole: bool


def write_out(known: MediaItems, model: str, tokens: memoryview, media: Sequence[tuple[int, str]]) -> WrittenPrompt:
    """The prompt with each item's tokens in place of its placeholder, as far as prompts are compared: an item of few
    bytes in a question may have been a long video in an event."""
    if not media:
        return WrittenPrompt(tokens, (), True)
    parts: list[memoryview] = []
    items: list[tuple[str, int, int]] = []
    copied = written = 0
    for place, identifier in media:
        parts.append(tokens[4 * copied : 4 * place])
        written += len(parts[-1]) // 4
        item = known.known(model, identifier)
        if item is None or written >= MOST_TOKENS:
            break
        length = min(len(item), MOST_TOKENS - written)
        items.append((identifier, written, length))
        parts.append(memoryview(item)[:length].cast("B"))
        written += length
        copied = place + 1
    else:
        parts.append(tokens[4 * copied :])
    return WrittenPrompt(memoryview(b"".join(parts))[: 4 * MOST_TOKENS], items, len(items) == len(media))


def _may_be(known: array[int], seen: array[int], before_last: int, seen_whole: bool) -> bool:
    """Whether what an event shows from an item's beginning on, to the end of the last block that names it, can be the
    item as it is known. `before_last`: tokens before that block; `seen_whole`: a block after it does not name it."""
    if len(known) <= before_last or (seen_whole and len(known) > len(seen)):
        return False
    return seen[: len(known)] == known[: len(seen)]


def _length(seen: array[int], certain: int) -> int | None:
    """How many of these tokens are the item's, of which the first so many are certain; None: perhaps all."""
    own = set(seen[:certain])
    return next((place for place in range(certain, len(seen)) if seen[place] not in own), None)
