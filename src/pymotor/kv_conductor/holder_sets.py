"""Sets of holders, each kept once, however many blocks have it.

A holder is a small number. For a block it may hold nothing, or the block in some tier, or (then too) on its device.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

NOWHERE = 0
IN_ANY_TIER = 1
ON_DEVICE = 3
"""Includes `IN_ANY_TIER`."""
Slots = npt.NDArray[np.intp]
Number = TypeVar("Number", bound=np.integer[Any])
_NOBODY = 0
_LEAST_SWEPT = 1024


class HolderSet:
    """Who holds a block, and where."""

    __slots__ = ("_packed", "_slots_any_tier", "_slots_on_device", "any_tier", "device")

    def __init__(self, any_tier: int, device: int) -> None:
        self.any_tier = any_tier
        """Bit n stands for holder n."""
        self.device = device
        self._slots_any_tier: Slots | None = None
        self._slots_on_device: Slots | None = None
        self._packed: bytes | None = None

    def in_any_tier(self) -> Slots:
        """The holders of any tier, ascending."""
        if self._slots_any_tier is None:
            self._slots_any_tier = bits_of(self.any_tier)
        return self._slots_any_tier

    def on_device(self) -> Slots:
        """The holders on the device, ascending."""
        if self._slots_on_device is None:
            same = self.device == self.any_tier
            self._slots_on_device = self.in_any_tier() if same else bits_of(self.device)
        return self._slots_on_device

    def packed(self) -> bytes:
        """The holders of any tier, 2 bytes each, ascending."""
        if self._packed is None:
            self._packed = self.in_any_tier().astype("<u2").tobytes()
        return self._packed


class HolderSets:
    """All sets in use, by number; 0 is the empty one."""

    def __init__(self) -> None:
        nobody = HolderSet(0, 0)
        self._sets: list[HolderSet] = [nobody]
        self._numbers: dict[tuple[int, int], int] = {(0, 0): _NOBODY}
        self._uses: list[int] = [1]
        self._unused: list[int] = []
        """Numbers that stand for no set."""
        self._moves: dict[int, int] = {}
        self._sweep_at = _LEAST_SWEPT

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> HolderSet:
        return self._sets[number]

    @property
    def memory_bytes(self) -> int:
        """About."""
        masks = sum((own.any_tier.bit_length() + own.device.bit_length()) // 7 for own in self._sets)
        return masks + len(self._sets) * 300 + len(self._moves) * 110

    def has(self, number: int, slot: int) -> bool:
        """Whether this holder is in the set."""
        return bool(self._sets[number].any_tier >> slot & 1)

    def move(self, number: int, count: int, slot: int, state: int) -> int:
        """The set that differs in nothing but where this holder holds; so many blocks have it now, and not the other
        any more."""
        move = number << 18 | slot << 2 | state
        after = self._moves.get(move)
        if after is None:
            after = self._moves[move] = self._moved(number, slot, state)
        uses = self._uses
        uses[number] -= count
        uses[after] += count
        return after

    def _moved(self, number: int, slot: int, state: int) -> int:
        bit = 1 << slot
        own = self._sets[number]
        any_tier = own.any_tier | bit if state else own.any_tier & ~bit
        device = own.device | bit if state == ON_DEVICE else own.device & ~bit
        target = self._numbers.get((any_tier, device))
        return self._new(any_tier, device) if target is None else target

    def sweep(self) -> None:
        """Forgets sets that no block has, when they became many; numbers from before may then mean nothing."""
        if len(self._numbers) + len(self._moves) // 8 < self._sweep_at:
            return
        self._moves.clear()
        for key, number in list(self._numbers.items()):
            if number != _NOBODY and not self._uses[number]:
                del self._numbers[key]
                self._sets[number] = self._sets[_NOBODY]
                self._unused.append(number)
        self._sweep_at = max(_LEAST_SWEPT, 2 * len(self._numbers))

    def _new(self, any_tier: int, device: int) -> int:
        own = HolderSet(any_tier, device)
        if self._unused:
            number = self._unused.pop()
            self._sets[number] = own
            self._uses[number] = 0
        else:
            number = len(self._sets)
            self._sets.append(own)
            self._uses.append(0)
        self._numbers[any_tier, device] = number
        return number


def distinct(numbers: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """The numbers, ascending, each once. (numpy's own `unique` imports half of numpy when it is first called.)"""
    ordered = np.sort(numbers)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def bits_of(mask: int) -> Slots:
    """The places of the bits that are set, ascending."""
    if mask & (mask - 1) == 0:
        return np.array([mask.bit_length() - 1] if mask else [], np.intp)
    content = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(content, bitorder="little"))
