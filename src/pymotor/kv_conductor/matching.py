"""From what was found along a prompt to tokens for each endpoint."""

from __future__ import annotations

import msgspec
import numpy as np

from pymotor.kv_conductor.holder_sets import HolderSet, Slots, bits_of, distinct
from pymotor.kv_conductor.holders import Holders
from pymotor.kv_conductor.index import MOST_HOLDERS, PrefixIndex, holder_changes
from pymotor.kv_conductor.questions import Beginnings
from pymotor.kv_conductor.routed import RoutedPrompts
from pymotor.kv_conductor.tiers import ANY_TIER, DEVICE_TIER


class Matches(msgspec.Struct, frozen=True, gc=False):
    """As in `PrefixMatches`: slots of endpoints, ascending, in 2 bytes each, and tokens for each, in 4 bytes."""

    slots: bytes
    on_device: bytes
    in_any_tier: bytes
    expected: bytes


NO_MATCHES = Matches(b"", b"", b"", b"")


class Matching:
    """Looks prompts up in the index and among those just routed."""

    def __init__(self, index: PrefixIndex, holders: Holders, routed: RoutedPrompts) -> None:
        self._index = index
        self._holders = holders
        self._routed = routed
        # Zero between questions, so that a question only touches the slots that match.
        self._on_device = np.zeros(MOST_HOLDERS, np.dtype("<u4"))
        self._in_any_tier = np.zeros(MOST_HOLDERS, np.dtype("<u4"))
        self._expected = np.zeros(MOST_HOLDERS, np.dtype("<u4"))

    def match(self, prompts: list[Beginnings]) -> Matches:
        """Where how much of a prompt is; `prompts` are its keys for each model and block size that there is."""
        touched: list[Slots] = []
        alone = len(prompts) == 1 and not self._holders.several_ranks
        for prompt in prompts:
            if not prompt.count:
                continue
            first_key = prompt.first()
            changes = holder_changes(self._index, prompt, first_key)
            expected = self._expected_of(prompt) if self._routed.begins(first_key) else []
            limited = self._index.limits and self._limited(changes)
            if alone and not expected and not limited:
                if not changes:
                    return NO_MATCHES
                if len(changes) == 1 and changes[0][1].device == changes[0][1].any_tier:
                    return _same_for_all(changes[0][1], changes[0][0] * prompt.block_size)
            self._mark_held(changes, prompt.block_size, touched)
            if limited:
                self._limit(prompt, limited)
            self._mark_expected(expected, prompt.block_size, touched)
        return self._gathered(touched) if touched else NO_MATCHES

    def _expected_of(self, prompt: Beginnings) -> list[tuple[int, int]]:
        return self._routed.expected(prompt.until, prompt.count, prompt.block_size)

    def _mark_held(self, changes: list[tuple[int, HolderSet]], block_size: int, touched: list[Slots]) -> None:
        first = changes[0][1].any_tier if changes else 0
        for place, (blocks, holders) in enumerate(changes):
            # Later sets are parts of earlier ones: each writes over what those wrote.
            self._in_any_tier[holders.in_any_tier()] = blocks * block_size
            self._on_device[holders.on_device()] = blocks * block_size
            if not place or holders.any_tier & ~first:
                touched.append(holders.in_any_tier())

    def _limited(self, changes: list[tuple[int, HolderSet]]) -> list[int]:
        """Of those who hold something the slots that may have less use of it."""
        holding = changes[0][1].any_tier if changes else 0
        return [slot for slot in self._index.limits if holding >> slot & 1]

    def _limit(self, prompt: Beginnings, slots: list[int]) -> None:
        size = prompt.block_size
        for slot in slots:
            for column, tiers in ((self._on_device, DEVICE_TIER), (self._in_any_tier, ANY_TIER)):
                blocks = int(column[slot]) // size
                if blocks:
                    key = prompt.until(blocks).item(blocks - 1)
                    column[slot] = self._index.limits[slot].reusable(key, blocks, tiers) * size

    def _mark_expected(self, expected: list[tuple[int, int]], block_size: int, touched: list[Slots]) -> None:
        for place, (blocks, mask) in enumerate(expected):
            slots = bits_of(mask)
            if not place:
                touched.append(slots)
            self._expected[slots] = blocks * block_size

    def _gathered(self, touched: list[Slots]) -> Matches:
        """What was marked; marks nothing afterwards."""
        slots = touched[0] if len(touched) == 1 else distinct(np.concatenate(touched))
        named = slots
        if self._holders.several_ranks:
            self._holders.join_ranks(self._on_device)
            self._holders.join_ranks(self._in_any_tier)
            named = self._holders.endpoints_of(slots)
            named = named[(self._in_any_tier[named] > 0) | (self._expected[named] > 0)]
        in_any_tier = self._in_any_tier[named]
        matches = Matches(
            named.astype("<u2").tobytes(),
            self._on_device[named].tobytes(),
            in_any_tier.tobytes(),
            np.maximum(self._expected[named], in_any_tier).tobytes(),
        )
        self._on_device[slots] = self._in_any_tier[slots] = self._expected[slots] = 0
        return matches


def _same_for_all(holders: HolderSet, tokens: int) -> Matches:
    slots = holders.packed()
    columns = tokens.to_bytes(4, "little") * (len(slots) // 2)
    return Matches(slots, columns, columns, columns)
