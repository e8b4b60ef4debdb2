"""Which adapters a publisher's blocks belong to, and when one is another than before.

An engine's own hashes have the adapter's files in them, keys only its name. An adapter that was loaded anew under its
name has another id: what was computed with the old one is of no more use.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from pymotor.kv_conductor.events import BlocksStored, low_64_bits

_LEAST_SWEPT = 64
_ADAPTER_BYTES = 500
"""About; besides the hashes."""


class _Adapter(msgspec.Struct):
    number: int | None
    """As it was told last."""
    first: array[int]
    """Hashes of blocks that begin a prompt."""
    sweep_at: int = _LEAST_SWEPT


class Adapters:
    """Those of one publisher, a bounded number: of the one that was told of least lately what is kept goes first."""

    def __init__(self, is_known: Callable[[int], bool], most: int = 4096) -> None:
        """`is_known`: whether a block with this hash is still kept."""
        self._is_known = is_known
        self._most = most
        self._adapters: OrderedDict[str, _Adapter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._adapters)

    @property
    def memory_bytes(self) -> int:
        """About."""
        return sum(_ADAPTER_BYTES + 8 * len(adapter.first) for adapter in self._adapters.values())

    def hear(self, event: BlocksStored) -> array[int]:
        """Of an event that names an adapter. Returns the hashes of first blocks whose prompts are of no more use: of an
        adapter that is another one now, or of one of too many, which may have been loaded anew unnoticed."""
        name, number = event.lora_name, event.lora_id
        if name is None:
            return array("Q")
        retired = array("Q")
        adapter = self._adapters.get(name)
        if adapter is None:
            adapter = self._adapters[name] = _Adapter(number, array("Q"))
            if len(self._adapters) > self._most:
                retired = self._adapters.popitem(last=False)[1].first
        else:
            self._adapters.move_to_end(name)
        if number is not None:
            if adapter.number is not None and adapter.number != number:
                retired, adapter.first = adapter.first, array("Q")
            adapter.number = number
        if event.parent_block_hash is None and event.block_hashes:
            self._begin(adapter, low_64_bits(event.block_hashes[0]))
        return retired

    def clear(self) -> None:
        """Nothing is kept any more."""
        self._adapters.clear()

    def _begin(self, adapter: _Adapter, block_hash: int) -> None:
        if len(adapter.first) >= adapter.sweep_at:
            adapter.first = array("Q", filter(self._is_known, set(adapter.first)))
            adapter.sweep_at = max(_LEAST_SWEPT, 2 * len(adapter.first))
        if not adapter.first or adapter.first[-1] != block_hash:
            adapter.first.append(block_hash)


def adapter_of(event: BlocksStored) -> str:
    """The adapter's name as keys have it; empty: none."""
    if event.lora_name is not None:
        return event.lora_name
    # No question names an adapter so: what such a block holds is of use to none.
    return "" if event.lora_id is None else f"\0{event.lora_id}"
