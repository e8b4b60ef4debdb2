"""An engine's KV cache as plain dicts: what it really holds, and the events that it tells of it.

The device evicts the least lately used block, the ends of prompts before their beginnings, as vLLM does; evicted
blocks go to the CPU's tier, which forgets the oldest whatever follows it. `lose` takes any block away, which real
engines do not; the index must be right all the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec

SIZE = 4
COPIES = 2
"""Tokens in a block."""


@dataclass(frozen=True)
class Prompt:
    tokens: tuple[int, ...]
    adapter: str = ""
    salt: str = ""

    def blocks(self) -> list[tuple[int, ...]]:
        return [self.tokens[start : start + SIZE] for start in range(0, len(self.tokens) - SIZE + 1, SIZE)]


@dataclass
class ModelKvCache:
    name: str
    capacity: int = 60
    cpu_capacity: int = 40
    older: bool = False
    """Events are arrays and hashes bytes, as some engines write them."""
    lives: int = 0
    number: int = 0
    """Of the next message."""
    device: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    cpu: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    """Messages of this life, which can be replayed."""
    _content: dict[bytes, Any] = field(default_factory=dict)
    _events: list[Any] = field(default_factory=list)

    def hashes(self, prompt: Prompt, copy: int = 0) -> list[bytes]:
        """Nobody else makes the same: they depend on engine and life, and on what events do not tell (`copy`)."""
        chain = f"{self.name} {self.lives} {prompt.adapter} {prompt.salt} {copy}".encode()
        hashes = []
        for block in prompt.blocks():
            chain = hashlib.sha256(chain + repr(block).encode()).digest()
            hashes.append(chain)
        return hashes

    def held(self, prompt: Prompt) -> tuple[int, int]:
        """Tokens of the prompt's beginning that are on the device, and in any tier; of its copies the most."""
        copies = [self._held(self.hashes(prompt, copy)) for copy in range(COPIES)]
        return max(on_device for on_device, _ in copies), max(anywhere for _, anywhere in copies)

    def _held(self, hashes: list[bytes]) -> tuple[int, int]:
        on_device = next((place for place, own in enumerate(hashes) if own not in self.device), len(hashes))
        missing = (place for place, own in enumerate(hashes) if own not in self.device and own not in self.cpu)
        return on_device * SIZE, next(missing, len(hashes)) * SIZE

    def serve(self, prompt: Prompt, tell_reused: bool = False, copy: int = 0) -> None:
        """Runs a prompt: what is missing is computed from the first missing block on, and told."""
        hashes = self.hashes(prompt, copy)
        blocks = prompt.blocks()
        if len(hashes) > self.capacity:
            return
        reused = next((place for place, own in enumerate(hashes) if own not in self.device), len(hashes))
        for own in reversed(hashes):
            if own in self.device:
                self.device.move_to_end(own)
        if tell_reused and reused:
            self._stored(prompt, hashes[:reused], None, blocks[:reused], "GPU")
        if reused == len(hashes):
            return
        for own in hashes[reused:]:
            self._content[own] = (prompt, hashes.index(own), copy)
        missing = [own for own in hashes[reused:] if own not in self.device]
        while len(self.device) + len(missing) > self.capacity:
            self._evict(next(own for own in self.device if own not in hashes))
        for own in reversed(hashes[reused:]):
            self.device[own] = None
        self._stored(prompt, hashes[reused:], hashes[reused - 1] if reused else None, blocks[reused:], "GPU")

    def lose(self, place: int, count: int) -> None:
        """Any blocks leave the device."""
        for own in list(self.device)[place : place + count]:
            self._evict(own)

    def lose_beginnings(self, count: int) -> None:
        """The first blocks of all prompts leave the device, those after them stay."""
        for own in [own for own in self.device if self._content[own][1] < count]:
            self._evict(own)

    def clear(self) -> None:
        self.device.clear()
        self.cpu.clear()
        self._events.append(["AllBlocksCleared"] if self.older else {"type": "AllBlocksCleared"})

    def restart(self) -> None:
        """A new process: it holds nothing, tells nothing of that, and numbers from zero."""
        self.lives += 1
        self.number = 0
        self.device.clear()
        self.cpu.clear()
        self.sent.clear()
        self._events.clear()

    def message(self) -> tuple[int, bytes]:
        """Number and payload of what happened since the last one."""
        payload = msgspec.msgpack.encode([1.0, self._events, None])
        message = (self.number, payload)
        self.number += 1
        self._events = []
        self.sent.append(message)
        return message

    def _evict(self, own: bytes) -> None:
        """The device's copy goes when there is one in the CPU's memory."""
        del self.device[own]
        if self.cpu_capacity:
            self._offload(own)
        self._removed(own, "GPU")

    def _offload(self, own: bytes) -> None:
        if own not in self.cpu and len(self.cpu) == self.cpu_capacity:
            oldest, _ = self.cpu.popitem(last=False)
            self._removed(oldest, "CPU")
        self.cpu[own] = None
        prompt, place, copy = self._content[own]
        hashes = self.hashes(prompt, copy)
        self._stored(prompt, [own], hashes[place - 1] if place else None, [prompt.blocks()[place]], "CPU")

    def _hash(self, own: bytes | None) -> bytes | int | None:
        if own is None or self.older:
            return own
        return int.from_bytes(own[-8:], "big")

    def _removed(self, own: bytes, medium: str) -> None:
        if self.older:
            self._events.append(["BlockRemoved", [own], medium])
        else:
            self._events.append({"type": "BlockRemoved", "block_hashes": [self._hash(own)], "medium": medium})

    def _stored(
        self, prompt: Prompt, hashes: list[bytes], parent: bytes | None, blocks: list[tuple[int, ...]], medium: str
    ) -> None:
        extra_keys: list[Any] | None = [([prompt.adapter] if prompt.adapter else []) for _ in blocks]
        if parent is None and prompt.salt:
            extra_keys[0] = [*extra_keys[0], prompt.salt]
        if not any(extra_keys):
            extra_keys = None
        fields = {
            "block_hashes": [self._hash(own) for own in hashes],
            "parent_block_hash": self._hash(parent),
            "token_ids": [token for block in blocks for token in block],
            "block_size": SIZE,
            "lora_id": 1 if prompt.adapter else None,
            "medium": medium,
            "lora_name": prompt.adapter or None,
        }
        if extra_keys is not None:
            fields["extra_keys"] = extra_keys
        self._events.append(["BlockStored", *fields.values()] if self.older else {"type": "BlockStored", **fields})
