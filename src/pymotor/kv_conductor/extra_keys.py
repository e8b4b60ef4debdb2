"""What a block depends on besides its tokens, as vLLM's events list it for each block.

An entry is a pair `[media identifier, offset]` (the item's start less the block's, in tokens), the adapter's name, in
a prompt's first block the cache salt, or the digest of prompt embeddings: untagged, in this order. The tagged form
that vLLM hashes (`["mm", identifier, offset]`) is read too. Whatever else is there makes the block match nothing.
"""

from __future__ import annotations

from typing import Any

from pymotor.fleet.prefix_queries import bounded
from pymotor.kv_conductor.events import BlocksStored
from pymotor.kv_conductor.prompt_keys import media_extra, other_extra


class ExtraKeys:
    """Those of one event's blocks."""

    def __init__(self, event: BlocksStored) -> None:
        self.salt = ""
        """As questions have it, `bounded`; identifiers likewise."""
        self.media: dict[int, list[tuple[str, int]]] = {}
        """For each block of the event that has any: identifier and offset of its items."""
        self._other: dict[int, int] = {}
        for block, values in enumerate(event.extra_keys or ()):
            for place, value in enumerate(values or ()):
                # A client may choose a salt that is called like the adapter, which always stands first.
                if place or not isinstance(value, str) or value != event.lora_name:
                    self._take(event, block, value)

    def added(self, depth: int) -> dict[int, int]:
        """What is added to the digests of blocks, by their place in the prompt; the event's first block has `depth`
        blocks before it."""
        added = {depth + block: other for block, other in self._other.items()}
        for block, items in self.media.items():
            added[depth + block] = sum(media_extra(*item) for item in items) + added.get(depth + block, 0)
        return {block: extra & (1 << 64) - 1 for block, extra in added.items()}

    def _take(self, event: BlocksStored, block: int, value: Any) -> None:
        match value:
            case ["lora", *_]:
                return
            case ["mm", str(identifier), int(offset)] | [str(identifier), int(offset)]:
                self.media.setdefault(block, []).append((bounded(identifier), offset))
            case ["cache_salt", str(salt)]:
                self.salt = bounded(salt)
            case str(salt) if block == 0 and event.parent_block_hash is None:
                self.salt = bounded(salt)
            case _:
                self._other[block] = self._other.get(block, 0) + other_extra(value)
