"""What one publisher (an endpoint, or one data-parallel rank of it) holds, as its events tell.

Keys are made from the token ids of the events, so no engine's own hash matters here. A block whose parent was never
told cannot be placed and is passed over. Blocks that come without tokens (offloaded ones of some engines) are taken
by their hash, where it is known.

Of a model with layers of several kinds one group of full attention counts: the first such group that events name, or
events that name none. How much of what it holds is of use, the other groups limit (`other_groups.py`).
"""

from __future__ import annotations

from array import array

import numpy as np

from pymotor.kv_conductor.adapters import Adapters, adapter_of
from pymotor.kv_conductor.events import (
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    EventBatch,
    low_64_bits,
    low_64_bits_of,
)
from pymotor.kv_conductor.extra_keys import ExtraKeys
from pymotor.kv_conductor.holder_sets import distinct
from pymotor.kv_conductor.index import PrefixIndex
from pymotor.kv_conductor.key_table import Keys, Rows
from pymotor.kv_conductor.media_items import MediaItems
from pymotor.kv_conductor.other_groups import OtherGroups
from pymotor.kv_conductor.passed_over import PassedOver
from pymotor.kv_conductor.prompt_keys import LONGEST_BLOCK, PromptKeys, most_blocks
from pymotor.kv_conductor.tiers import ANY_TIER, DEVICE_TIER, EvictingStores, tier_of
from pymotor.kv_conductor.told_blocks import NO_PARENT, TOGETHER, ToldBlocks

_FULL_ATTENTION = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})


class PublisherView:
    """Takes one publisher's events, in their order, and writes its slot in the index."""

    def __init__(
        self,
        index: PrefixIndex,
        slot: int,
        keys: PromptKeys,
        model: str,
        media: MediaItems | None = None,
    ) -> None:
        """`slot`: the holder that this publisher is. `model`: what questions call the model. `media` hears of the
        media in the events."""
        self.slot = slot
        self.model = model
        self.block_size = 0
        """Tokens; 0 until an event told."""
        self.counts = PassedOver()
        self._index = index
        self._keys = keys
        self._media = media
        self._told = ToldBlocks(index, slot)
        self._others = OtherGroups()
        self._adapters = Adapters(lambda block_hash: self._told.find(block_hash) >= 0)
        self._evicting = EvictingStores()
        self._group: int | None = None
        self._sized_by_device = False

    def __len__(self) -> int:
        """Blocks that it told of and still has."""
        return len(self._told)

    @property
    def memory_bytes(self) -> int:
        """Of what is kept for each block."""
        return self._told.memory_bytes + self._others.memory_bytes + self._adapters.memory_bytes

    def apply(self, batch: EventBatch) -> None:
        """What a batch told. Raises EventFormatError for token ids that are none; the caller then clears the view,
        because what the batch told after it is not known."""
        self.counts.unknown_events += batch.unknown
        removed: list[BlockHash] = []
        removed_from: str | None = None
        for event in batch.events:
            if isinstance(event, BlocksRemoved):
                # Engines write an event for each block; together they are cheaper.
                group = event.group_idx
                self._evicting.hear(event)
                if self._others and (group is None or group != self._group):
                    self._index.entries -= self._others.remove(
                        group, low_64_bits_of(event.block_hashes), tier_of(event.medium)
                    )
                if group == self._group or group is None or self._group is None:
                    if event.medium != removed_from:
                        self._remove(removed, removed_from)
                        removed, removed_from = [], event.medium
                    removed += event.block_hashes
                continue
            if removed:
                self._remove(removed, removed_from)
                removed = []
            if isinstance(event, BlocksStored):
                self._store(event)
            else:
                self.clear()
        self._remove(removed, removed_from)
        self._told.settle()

    def clear(self) -> None:
        """The publisher holds nothing: it said so, started anew, or its events were lost. Size and group of its blocks
        are learned anew, since it may be another engine."""
        self._resize(0)
        self._group = None
        self._index.entries -= self._others.clear()
        self._index.limits.pop(self.slot, None)
        self._adapters.clear()
        self._evicting.clear()
        self._told.know_by_block(wanted=False)

    def end(self) -> None:
        """The publisher is gone; its slot may be given to another."""
        self.clear()

    def reusable(self, key: int, blocks: int, tiers: int) -> int:
        """As in `Reuse`."""
        row = self._told.row_of(self._index.blocks.find(key))
        return 0 if row < 0 else self._others.reusable(self._told, row, blocks, self.block_size, tiers)

    def _store(self, event: BlocksStored) -> None:
        count = len(event.block_hashes)
        tier = tier_of(event.medium)
        if not self._counts_group(event):
            self._store_for_other_group(event, tier)
            return
        if not count:
            return
        if event.lora_name is not None:
            self._told.remove(self._adapters.hear(event), ANY_TIER)
        if tier != DEVICE_TIER and not self._takes_lower_tier(event, tier):
            return
        if count == 1:
            self._store_one(event, low_64_bits(event.block_hashes[0]), tier)
            return
        hashes = low_64_bits_of(event.block_hashes)
        if len(distinct(np.frombuffer(hashes, np.uint64))) != count:
            self.counts.repeated += count
            return
        ends: Rows | None
        rows, ends = self._told.find_all(hashes)
        unknown = rows < 0
        if not unknown.any():
            self._told.store_again(rows, tier)
            return
        if not unknown.all():
            ends = None
        if self._store_as_told_before(event, hashes, tier, ends):
            return
        tokens = event.tokens()
        if not self._fits(event, count, len(tokens), tier):
            self.counts.other_sizes += count
            return
        if ends is not None and not len(self._told):
            # The table may be another one than the search was in.
            ends = self._told.find_all(hashes)[1]
        parent = self._parent(event)
        if parent is None:
            self.counts.orphans += count
            return
        self._store_after(event, parent, hashes, tokens, tier, ends)

    def _store_for_other_group(self, event: BlocksStored, tier: int) -> None:
        index, count = self._index, len(event.block_hashes)
        self.counts.other_groups += count
        index.entries -= self._others.hear(event)
        index.limits[self.slot] = self
        self._told.know_by_block(wanted=True)
        if tier != DEVICE_TIER and not self._evicting.tells(event):
            self.counts.evictions_untold += count
        elif self._has_room(count):
            index.entries += self._others.store(event.group_idx, low_64_bits_of(event.block_hashes), tier)

    def _takes_lower_tier(self, event: BlocksStored, tier: int) -> bool:
        """Whether blocks of a lower tier are to be stored as those of the device are. False: that is done, or they
        are passed over."""
        if not self._evicting.tells(event):
            self.counts.evictions_untold += len(event.block_hashes)
            return False
        if event.extra_keys is not None:
            return True
        # Salts and media, often the adapter too, are left out: what these blocks are only their hashes say.
        for block_hash in low_64_bits_of(event.block_hashes):
            self.counts.without_keys += not self._told.add_tier(block_hash, tier)
        return False

    def _store_one(self, event: BlocksStored, block_hash: int, tier: int) -> None:
        """The block that a decode step filled."""
        if self._told.add_tier(block_hash, tier):
            return
        tokens = event.tokens()
        if not self._fits(event, 1, len(tokens), tier):
            self.counts.other_sizes += 1
            return
        parent = self._parent(event)
        if parent is None:
            self.counts.orphans += 1
            return
        if parent == NO_PARENT or (event.extra_keys and event.extra_keys[0]):
            self._store_after(event, parent, array("Q", (block_hash,)), tokens, tier, None)
            return
        key, depth = self._told.place(parent)
        depth += 1
        if depth >= most_blocks(self.block_size):
            self.counts.too_deep += 1
        elif self._has_room(1):
            self._told.store_new(block_hash, self._keys.next_key(key, depth, tokens), depth, parent, tier)

    def _parent(self, event: BlocksStored) -> int | None:
        """The row before the event's first block, or NO_PARENT; None: it was never told."""
        if event.parent_block_hash is None:
            return NO_PARENT
        row = self._told.find(low_64_bits(event.parent_block_hash))
        return None if row < 0 else row

    def _store_as_told_before(self, event: BlocksStored, hashes: array[int], tier: int, ends: Rows | None) -> bool:
        """Without a look at the tokens, where any publisher told the same after the same beginning. False: nobody
        did."""
        count = len(hashes)
        if event.block_size != self.block_size or (event.extra_keys is not None and not _are_empty(event, count)):
            return False
        parent = self._parent(event)
        if parent is None:
            return False
        key, depth = self._before(event, parent, "")
        keys = self._index.told_keys.find(key, event.token_ids, count)
        if keys is None:
            return False
        self._sized_by_device |= tier == DEVICE_TIER
        if self._has_room(count):
            self._store_keys(hashes, keys, depth, parent, tier, ends)
        return True

    def _is_of_group(self, group: int | None) -> bool:
        return group is None or self._group is None or group == self._group

    def _counts_group(self, event: BlocksStored) -> bool:
        if event.kv_cache_spec_kind not in _FULL_ATTENTION:
            return False
        if self._group is None:
            self._group = event.group_idx
        return self._is_of_group(event.group_idx)

    def _fits(self, event: BlocksStored, count: int, tokens: int, tier: int) -> bool:
        """Whether the event tells of whole blocks. How large those are, the device's blocks say: the largest, because
        parts of blocks are told too."""
        size = event.block_size
        if size <= 0 or tokens != count * size or size > LONGEST_BLOCK:
            return False
        if event.extra_keys is not None and len(event.extra_keys) != count:
            return False
        on_device = tier == DEVICE_TIER
        if size != self.block_size:
            larger = on_device and (size > self.block_size or not self._sized_by_device)
            if self.block_size and not larger:
                return False
            self._resize(size)
        self._sized_by_device |= on_device
        return True

    def _store_after(
        self,
        event: BlocksStored,
        parent: int,
        hashes: array[int],
        tokens: array[int],
        tier: int,
        ends: Rows | None,
    ) -> None:
        """`ends`: from the search for the hashes, if it found none of them."""
        size = self.block_size
        extras = ExtraKeys(event) if event.extra_keys and any(event.extra_keys) else None
        key, depth = self._before(event, parent, extras.salt if extras else "")
        count = min(len(hashes), most_blocks(size) - depth)
        self.counts.too_deep += len(hashes) - count
        if count <= 0:
            return
        if not self._has_room(count):
            return
        if extras and self._media is not None:
            self._media.hear(self.slot, self.model, event, extras, hashes, tokens)
        added = extras.added(depth) if extras else {}
        if len(hashes) == 1:
            key = self._keys.next_key(key, depth, tokens[:size], added.get(depth, 0))
            self._told.store_new(hashes[0], key, depth, parent, tier)
            return
        keys = self._keys.keys_after(key, depth, np.frombuffer(tokens, np.uint32)[: count * size], size, added)
        if not extras:
            self._index.runs.hear(depth, keys, memoryview(tokens)[: count * size].cast("B"))
            if count == len(hashes):
                self._index.told_keys.keep(key, event.token_ids, keys)
        self._store_keys(hashes[:count], keys, depth, parent, tier, ends)

    def _before(self, event: BlocksStored, parent: int, salt: str) -> tuple[int, int]:
        """The key of what is before the event's first block, and how many blocks that are."""
        if parent == NO_PARENT:
            return self._keys.root(self.model, adapter_of(event), salt, self.block_size), 0
        key, depth = self._told.place(parent)
        return key, depth + 1

    def _has_room(self, count: int) -> bool:
        if self._index.room_for(count):
            return True
        self.counts.no_room += count
        return False

    def _store_keys(
        self, hashes: array[int], keys: Keys, depth: int, parent: int, tier: int, ends: Rows | None
    ) -> None:
        count = len(hashes)
        if count >= TOGETHER and ends is not None:
            self._told.store_all_new(hashes, ends[:count], keys, depth, parent, tier)
            return
        for place, (block_hash, block_key) in enumerate(zip(hashes, keys.tolist(), strict=True)):
            parent = self._told.store(block_hash, block_key, depth + place, parent, tier)
            if self._told.place(parent)[0] != block_key:
                # The hash was told for another place: what follows here would follow that.
                self.counts.repeated += count - place
                return

    def _remove(self, block_hashes: list[BlockHash], medium: str | None) -> None:
        if block_hashes:
            self._told.remove(low_64_bits_of(block_hashes), tier_of(medium))

    def _resize(self, size: int) -> None:
        """Blocks have this size from now on; what was told before is forgotten."""
        self._told.clear()
        if self._media is not None:
            self._media.forget(self.slot)
        self._index.sizes.change(self.model, self.block_size, size)
        self.block_size = size
        self._sized_by_device = False


def _are_empty(event: BlocksStored, count: int) -> bool:
    extra_keys = event.extra_keys or []
    return len(extra_keys) == count and not any(extra_keys)
