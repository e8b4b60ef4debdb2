"""Prompts that were just sent to an endpoint: expected there until the engine's events told the whole of it, or that it
lost some of it, until who sent it takes it back, or until time is up.

Kept apart from the index, which has only what engines told. A prompt is kept as its keys at every `GRAIN` tokens, so
what is expected may be that much short of what was sent.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from pymotor.kv_conductor.key_table import Keys

GRAIN = 256
"""Tokens."""
_TOKENS_FOR_A_SECOND = 4096
"""Of a prompt: for each so many it is expected a second longer, since it takes longer to be computed."""
_MOST_SECONDS = 30.0
_MANY_OVER = 1000
"""Prompts that are over and still in the heap."""


class _Place(msgspec.Struct):
    mask: int
    """Bit n: expected at slot n."""
    prompts: dict[int, int]
    """How many prompts, by slot."""


class _Sent(msgspec.Struct, order=True):
    until: float
    number: int
    """Of all prompts that were sent."""
    slot: int
    first_key: int
    """Of the prompt's first block."""
    keys: list[int]
    is_over: bool = False


class RoutedPrompts:
    """What is expected where."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, seconds: float = 2.0, most_keys: int = 1_000_000
    ) -> None:
        """`clock`: seconds, never going back. `seconds`: how long a short prompt is expected; a long one longer, by a
        second for each 4,096 tokens, 30 s at most. `most_keys`: bound; what ends first is forgotten first."""
        self._clock = clock
        self._seconds = seconds
        self._most_keys = most_keys
        self._places: dict[int, _Place] = {}
        self._sent: list[_Sent] = []
        """A heap: what ends first is its first."""
        self._first_keys: Counter[int] = Counter()
        self._by_end: dict[tuple[int, int], dict[int, _Sent]] = {}
        """By slot and last key, the prompts that end there, by a number of their own."""
        self._added = 0
        self._keys = 0
        self.waiting: Counter[int] = Counter()
        """Number of prompts by slot; a slot without one is not in it."""

    def __len__(self) -> int:
        return self.waiting.total()

    @property
    def memory_bytes(self) -> int:
        """About."""
        return self._keys * 48 + len(self._places) * 400 + len(self._first_keys) * 100 + len(self._sent) * 200

    def add(self, slot: int, keys: Keys, block_size: int) -> None:
        """A prompt with these keys of its full blocks was sent to this slot."""
        self._forget_old()
        step = grain_blocks(block_size)
        seconds = self._seconds + len(keys) * block_size // _TOKENS_FOR_A_SECOND
        until = self._clock() + min(seconds, _MOST_SECONDS)
        self._added += 1
        sent = _Sent(until, self._added, slot, keys.item(0) if len(keys) else 0, keys[step - 1 :: step].tolist())
        if not sent.keys:
            return
        for key in sent.keys:
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place(0, {})
            place.mask |= 1 << slot
            place.prompts[slot] = place.prompts.get(slot, 0) + 1
        heapq.heappush(self._sent, sent)
        self._first_keys[sent.first_key] += 1
        self._by_end.setdefault((slot, sent.keys[-1]), {})[sent.number] = sent
        self.waiting[slot] += 1
        self._keys += len(sent.keys)
        self._forget_old()

    def begins(self, first_key: int) -> bool:
        """Whether a prompt whose first block has this key was sent somewhere."""
        return first_key in self._first_keys

    def expected(self, keys_until: Callable[[int], Keys], count: int, block_size: int) -> list[tuple[int, int]]:
        """Where how much of a prompt with `count` full blocks is expected: pairs of a number of blocks and the mask
        of the slots that expect at least so many, ascending; the masks shrink. `keys_until` as for the index."""
        self._forget_old()
        if not self._places:
            return []
        found: list[tuple[int, int]] = []
        mask = -1
        for blocks, key in _steps(keys_until, count, grain_blocks(block_size)):
            place = self._places.get(key)
            # Who lost a part of a prompt expects nothing that comes after it.
            mask &= place.mask if place is not None else 0
            if not mask:
                break
            if found and found[-1][1] == mask:
                found[-1] = (blocks, mask)
            else:
                found.append((blocks, mask))
        return found

    def told(self, slot: int, key: int) -> None:
        """The engine there told that it holds the beginning with this key: prompts that end there are over."""
        for sent in list(self._by_end.get((slot, key), {}).values()):
            self._drop(sent)

    def lost(self, slot: int, key: int) -> None:
        """The engine there told that it holds the beginning with this key no more: nothing that begins so is
        expected."""
        place = self._places.get(key)
        if place is not None and slot in place.prompts:
            del place.prompts[slot]
            self._clear_bit(key, place, slot)

    def take_back(self, slot: int, keys: Keys, block_size: int) -> None:
        """A prompt as it was added once: it was sent there in vain."""
        step = grain_blocks(block_size)
        if len(keys) < step:
            return
        last = keys.item(len(keys) // step * step - 1)
        for sent in self._by_end.get((slot, last), {}).values():
            self._drop(sent)
            return

    def forget(self, slot: int) -> None:
        """Nothing is expected there any more."""
        for sent in self._sent:
            if sent.slot == slot:
                self._drop(sent)
        self._sweep()

    def _sweep(self) -> None:
        self._sent = [sent for sent in self._sent if not sent.is_over]
        heapq.heapify(self._sent)

    def _forget_old(self) -> None:
        now = self._clock()
        if len(self._sent) > 2 * len(self) + _MANY_OVER:
            self._sweep()
        while self._sent and (self._sent[0].is_over or self._sent[0].until <= now or self._keys > self._most_keys):
            self._drop(heapq.heappop(self._sent))

    def _drop(self, sent: _Sent) -> None:
        """Once for each; its place in the heap is taken when its time is up."""
        if sent.is_over:
            return
        sent.is_over = True
        self._keys -= len(sent.keys)
        _count_down(self._first_keys, sent.first_key)
        _count_down(self.waiting, sent.slot)
        end = (sent.slot, sent.keys[-1])
        del self._by_end[end][sent.number]
        if not self._by_end[end]:
            del self._by_end[end]
        for key in sent.keys:
            place = self._places.get(key)
            prompts = place.prompts.get(sent.slot) if place else None
            if place is None or prompts is None:
                continue
            # The same prompt may have been sent there again since.
            if prompts > 1:
                place.prompts[sent.slot] = prompts - 1
            else:
                del place.prompts[sent.slot]
                self._clear_bit(key, place, sent.slot)
        sent.keys = []

    def _clear_bit(self, key: int, place: _Place, slot: int) -> None:
        place.mask &= ~(1 << slot)
        if not place.mask:
            del self._places[key]


def _count_down(counts: Counter[int], key: int) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def grain_blocks(block_size: int) -> int:
    """Every so many blocks a prompt is remembered."""
    return max(1, GRAIN // block_size)


def _steps(keys_until: Callable[[int], Keys], count: int, step: int) -> Iterator[tuple[int, int]]:
    blocks, known = step, 0
    while blocks <= count:
        if blocks > known:
            known = min(count, max(blocks, 2 * known))
            keys = keys_until(known)
        yield blocks, int(keys[blocks - 1])
        blocks += step
