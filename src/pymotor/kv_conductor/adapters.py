"""Which adapters a publisher's blocks belong to, and when one is another than before.

An engine's own hashes have the adapter's files in them, keys only its name. An adapter that was loaded anew under its
name has another id: what was computed with the old one is of no more use.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from pymotor.kv_conductor.events import BlocksStored, low_64_bits

_LEAST_SWEPT = 64


class Adapters:
    """Those of one publisher."""

    def __init__(self, is_known: Callable[[int], bool]) -> None:
        """`is_known`: whether a block with this hash is still kept."""
        self._is_known = is_known
        self._ids: dict[str, int] = {}
        self._first: dict[str, array[int]] = {}
        """By adapter, the hashes of blocks that begin a prompt."""
        self._sweep_at: dict[str, int] = {}

    def hear(self, event: BlocksStored) -> array[int]:
        """Of an event that names an adapter. Returns the hashes of first blocks whose prompts are of no more use."""
        name, number = event.lora_name, event.lora_id
        if name is None:
            return array("Q")
        retired = array("Q")
        if number is not None:
            if self._ids.get(name, number) != number:
                retired = self._first.pop(name, retired)
            self._ids[name] = number
        if event.parent_block_hash is None and event.block_hashes:
            self._begin(name, low_64_bits(event.block_hashes[0]))
        return retired

    def clear(self) -> None:
        """Nothing is kept any more."""
        self._ids.clear()
        self._first.clear()
        self._sweep_at.clear()

    def _begin(self, name: str, block_hash: int) -> None:
        first = self._first.setdefault(name, array("Q"))
        if len(first) >= self._sweep_at.get(name, _LEAST_SWEPT):
            first = self._first[name] = array("Q", filter(self._is_known, set(first)))
            self._sweep_at[name] = max(_LEAST_SWEPT, 2 * len(first))
        if not first or first[-1] != block_hash:
            first.append(block_hash)


def adapter_of(event: BlocksStored) -> str:
    """The adapter's name as keys have it; empty: none."""
    if event.lora_name is not None:
        return event.lora_name
    # No question names an adapter so: what such a block holds is of use to none.
    return "" if event.lora_id is None else f"\0{event.lora_id}"
