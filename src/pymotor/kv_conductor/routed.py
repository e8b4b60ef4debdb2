"""Prompts that were just sent to an endpoint: expected there, until the engine's events take over or time is up.

Kept apart from the index, which has only what engines told. A prompt is kept as its keys at every `GRAIN` tokens, so
what is expected may be that much short of what was sent.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from pymotor.kv_conductor.key_table import Keys

GRAIN = 256
"""Tokens."""
_TOKENS_FOR_A_SECOND = 4096
"""Of a prompt: for each so many it is expected a second longer, since it takes longer to be computed."""
_MOST_SECONDS = 30.0


class _Place(msgspec.Struct):
    mask: int
    """Bit n: expected at slot n."""
    until: dict[int, float]


class _Sent(msgspec.Struct, frozen=True, order=True):
    until: float
    slot: int
    first_key: int
    """Of the prompt's first block."""
    keys: list[int]


class RoutedPrompts:
    """What is expected where."""

    def __init__(self, clock: Callable[[], float], seconds: float = 2.0, most_keys: int = 1_000_000) -> None:
        """`clock`: seconds, never going back. `seconds`: how long a short prompt is expected; a long one longer, by a
        second for each 4,096 tokens, 30 s at most. `most_keys`: bound; what ends first is forgotten first."""
        self._clock = clock
        self._seconds = seconds
        self._most_keys = most_keys
        self._places: dict[int, _Place] = {}
        self._sent: list[_Sent] = []
        """A heap: what ends first is its first."""
        self._first_keys: Counter[int] = Counter()
        self._keys = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def memory_bytes(self) -> int:
        """About."""
        return self._keys * 48 + len(self._places) * 400 + len(self._first_keys) * 100

    def add(self, slot: int, keys: Keys, block_size: int) -> None:
        """A prompt with these keys of its full blocks was sent to this slot."""
        self._forget_old()
        step = grain_blocks(block_size)
        seconds = self._seconds + len(keys) * block_size // _TOKENS_FOR_A_SECOND
        until = self._clock() + min(seconds, _MOST_SECONDS)
        sent = _Sent(until, slot, keys.item(0) if len(keys) else 0, keys[step - 1 :: step].tolist())
        if not sent.keys:
            return
        for key in sent.keys:
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place(0, {})
            place.mask |= 1 << slot
            place.until[slot] = max(until, place.until.get(slot, 0.0))
        heapq.heappush(self._sent, sent)
        self._first_keys[sent.first_key] += 1
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
        for blocks, key in _steps(keys_until, count, grain_blocks(block_size)):
            place = self._places.get(key)
            if place is None:
                break
            if found and found[-1][1] == place.mask:
                found[-1] = (blocks, place.mask)
            else:
                found.append((blocks, place.mask))
        return found

    def forget(self, slot: int) -> None:
        """Nothing is expected there any more."""
        gone = [sent for sent in self._sent if sent.slot == slot]
        self._sent = [sent for sent in self._sent if sent.slot != slot]
        heapq.heapify(self._sent)
        for sent in gone:
            self._drop(sent, always=True)

    def _forget_old(self) -> None:
        now = self._clock()
        while self._sent and (self._sent[0].until <= now or self._keys > self._most_keys):
            self._drop(heapq.heappop(self._sent))

    def _drop(self, sent: _Sent, always: bool = False) -> None:
        self._keys -= len(sent.keys)
        self._first_keys[sent.first_key] -= 1
        if not self._first_keys[sent.first_key]:
            del self._first_keys[sent.first_key]
        for key in sent.keys:
            place = self._places.get(key)
            until = place.until.get(sent.slot) if place else None
            # The same prompt may have been sent there again since.
            if place is None or until is None or (until > sent.until and not always):
                continue
            del place.until[sent.slot]
            place.mask &= ~(1 << sent.slot)
            if not place.mask:
                del self._places[key]


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
