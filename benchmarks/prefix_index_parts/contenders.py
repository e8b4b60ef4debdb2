"""The indexes that are compared, each used at its best.

All take the same msgpack payloads and the same lists of token ids; what they find, the Coordinator's own policy
chooses by.
`convert` is what a payload costs before the index itself sees it.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from prefix_index_parts.workload import BLOCK
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules, Figures, choose_among_holders
from pymotor.fleet.prefix_queries import Followed, PrefixMatches, PrefixQuery, PrefixRouted
from pymotor.kv_conductor.frames import Answerer

SLOT, TOKENS = np.dtype("<u2"), np.dtype("<u4")
Loads = npt.NDArray[np.int64]


class Contender(Protocol):
    """One index."""

    packed: bool
    """Whether it takes tokens of 4 bytes; if not, lists of ids."""

    def given(self, prompt: list[int]) -> Any:
        """A prompt as it takes it soonest."""

    def convert(self, payload: bytes) -> Any:
        """What `apply` takes."""

    def apply(self, endpoint: int, converted: Any) -> None:
        """One message's events."""

    def finish(self) -> None:
        """Returns when all that was applied is in the index."""

    def match(self, prompt: Any) -> tuple[Figures, Figures]:
        """The endpoints that hold the beginning of a prompt, and how many tokens each."""

    def answerer(self) -> Answerer:
        """What answers over a socket. To be asked for within the event loop."""


def chosen(index: Contender, prompt: list[int], loads: Loads) -> tuple[int, int]:
    """Token ids in, choice out, by the Coordinator's own policy: the endpoint, and what it holds. `loads` in tenths of
    a token."""
    return choose_among_holders(RULES, len(prompt), *index.match(index.given(prompt)), loads)


def packed(prompt: list[int]) -> memoryview:
    """Token ids in 4 bytes each."""
    return memoryview(array("I", prompt)).cast("B")


class Pymotor:
    """The KV Conductor's core."""

    packed = True

    def __init__(self, endpoints: int) -> None:
        from pymotor.kv_conductor.conductor_core import ConductorCore
        from pymotor.kv_conductor.events import decode_batch

        self.convert = decode_batch
        self.core = ConductorCore(most_entries=1 << 30)
        self._views = [self.core.follow(str(endpoint), ["model"])[0] for endpoint in range(endpoints)]
        self._number = 0

    def apply(self, endpoint: int, converted: Any) -> None:
        self._views[endpoint].apply(converted)

    def finish(self) -> None:
        pass

    def given(self, prompt: list[int]) -> memoryview:
        return packed(prompt)

    def match(self, prompt: memoryview) -> tuple[Figures, Figures]:
        self._number += 1
        told = self.core.match("coordinator", PrefixQuery(self._number, "model", prompt))
        return np.frombuffer(told.slots, SLOT), np.frombuffer(told.expected, TOKENS)

    def answerer(self) -> Answerer:
        from pymotor.kv_conductor.answers import Answers

        return Answers(self.core, lambda: None)


class _Behind:
    """Answers for another index as the KV Conductor does, by its frames."""

    def __init__(self, index: Contender, endpoints: int) -> None:
        self._index = index
        self.followed = Followed([str(endpoint) for endpoint in range(endpoints)], 1)

    def match(self, _asker: Hashable, query: PrefixQuery) -> PrefixMatches:
        # Whoever takes many small parts of them is sooner served by bytes than by a view of them.
        tokens = query.tokens.tobytes()
        slots, held = self._index.match(tokens if self._index.packed else array("I", tokens).tolist())
        packed = np.asarray(held, TOKENS).tobytes()
        return PrefixMatches(query.number, 1, np.asarray(slots, SLOT).tobytes(), packed, packed, packed)

    def routed(self, _asker: Hashable, _message: PrefixRouted) -> bool:
        return False

    def forget_asker(self, _asker: Hashable) -> None:
        pass


class _Stored(msgspec.Struct, tag_field="type", tag="BlockStored", gc=False):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int


class _Removed(msgspec.Struct, tag_field="type", tag="BlockRemoved", gc=False):
    block_hashes: list[int]


class _Batch(msgspec.Struct, array_like=True, gc=False):
    timestamp: float
    events: list[_Stored | _Removed]


_BATCHES = msgspec.msgpack.Decoder(_Batch)


class RadixTree:
    """Dynamo's, through its Python binding, which takes JSON."""

    packed = False

    def __init__(self, endpoints: int) -> None:
        from dynamo._core import RadixTree as Tree
        from dynamo._core import compute_block_hash_for_seq

        self._tree = Tree()
        self._hash = compute_block_hash_for_seq
        self._encode = msgspec.json.Encoder().encode
        self._endpoints = endpoints
        self._number = 0

    def convert(self, payload: bytes) -> list[bytes]:
        events: list[bytes] = []
        removed: list[int] = []
        for event in _BATCHES.decode(payload).events:
            if isinstance(event, _Removed):
                removed.extend(event.block_hashes)
                continue
            local = self._hash(event.token_ids, BLOCK)
            pairs = zip(event.block_hashes, local, strict=True)
            blocks = [{"block_hash": own, "tokens_hash": tokens_hash} for own, tokens_hash in pairs]
            events.append(self._event({"stored": {"parent_hash": event.parent_block_hash, "blocks": blocks}}))
        if removed:
            events.append(self._event({"removed": {"block_hashes": removed}}))
        return events

    def apply(self, endpoint: int, converted: list[bytes]) -> None:
        for event in converted:
            self._tree.apply_event(endpoint, event)

    def finish(self) -> None:
        self._tree.find_matches([1])

    def given(self, prompt: list[int]) -> list[int]:
        return prompt

    def match(self, prompt: list[int]) -> tuple[Figures, Figures]:
        scores = self._tree.find_matches(self._hash(prompt, BLOCK)).scores
        if len(scores) <= FEW:
            return [worker for worker, _ in scores], [blocks * BLOCK for blocks in scores.values()]
        slots = np.fromiter((worker for worker, _ in scores), np.intp, len(scores))
        return slots, np.fromiter(scores.values(), np.int64, len(scores)) * BLOCK

    def answerer(self) -> Answerer:
        return _Behind(self, self._endpoints)

    def _event(self, data: dict[str, Any]) -> bytes:
        self._number += 1
        return self._encode({"event_id": self._number, "data": data})


class PlainDict:
    """A dict from the chained hash of a block to a bitmask of endpoints, and for each endpoint one from the engine's
    hash to ours. A question looks at few blocks, trusting that a block implies those before it."""

    packed = True

    def __init__(self, endpoints: int) -> None:
        self._masks: dict[int, int] = {}
        self._own: list[dict[int, int]] = [{} for _ in range(endpoints)]
        self._endpoints = endpoints

    def convert(self, payload: bytes) -> list[tuple[_Stored | _Removed, bytes]]:
        return [
            (event, array("I", event.token_ids).tobytes() if isinstance(event, _Stored) else b"")
            for event in _BATCHES.decode(payload).events
        ]

    def apply(self, endpoint: int, converted: list[tuple[_Stored | _Removed, bytes]]) -> None:
        masks, own, bit = self._masks, self._own[endpoint], 1 << endpoint
        digest = xxhash.xxh3_64_intdigest
        for event, packed in converted:
            if isinstance(event, _Stored):
                key = own[event.parent_block_hash] if event.parent_block_hash is not None else 0
                start = 0
                for block_hash in event.block_hashes:
                    end = start + 4 * BLOCK
                    key = digest(packed[start:end], key)
                    start = end
                    own[block_hash] = key
                    masks[key] = masks.get(key, 0) | bit
            else:
                for block_hash in event.block_hashes:
                    key = own.pop(block_hash)
                    left = masks[key] & ~bit
                    if left:
                        masks[key] = left
                    else:
                        del masks[key]

    def finish(self) -> None:
        pass

    def given(self, prompt: list[int]) -> bytes:
        return array("I", prompt).tobytes()

    def match(self, prompt: bytes) -> tuple[Figures, Figures]:
        digest, get = xxhash.xxh3_64_intdigest, self._masks.get
        keys: list[int] = []
        key = 0
        count = len(prompt) // (4 * BLOCK)
        chunk = 32
        while len(keys) < count:
            start = len(keys)
            for place in range(start, min(count, start + chunk)):
                key = digest(prompt[place * 4 * BLOCK : (place + 1) * 4 * BLOCK], key)
                keys.append(key)
            if not get(keys[start]):
                break
            chunk *= 4
        first = get(keys[0], 0) if keys else 0
        if not first:
            return (), ()
        last = get(keys[-1], 0)
        if first == last and first & (first - 1) == 0:
            return (first.bit_length() - 1,), (len(keys) * BLOCK,)
        held = np.zeros(self._endpoints, np.int64)
        self._fill(keys, 0, first, len(keys) - 1, last, held)
        _set_bits(held, last, len(keys) * BLOCK)
        slots = np.flatnonzero(held)
        return slots, held[slots]

    def answerer(self) -> Answerer:
        return _Behind(self, self._endpoints)

    def _fill(self, keys: list[int], low: int, below: int, high: int, above: int, held: np.ndarray) -> None:
        if below == above or low == high:
            return
        if high - low == 1:
            _set_bits(held, below & ~above, high * BLOCK)
            return
        middle = (low + high) // 2
        there = self._masks.get(keys[middle], 0)
        self._fill(keys, low, below, middle, there, held)
        self._fill(keys, middle, there, high, above, held)


def _set_bits(held: np.ndarray, mask: int, value: int) -> None:
    if mask and mask & (mask - 1) == 0:
        held[mask.bit_length() - 1] = value
    elif mask:
        content = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), np.uint8)
        held[np.flatnonzero(np.unpackbits(content, bitorder="little"))] = value


RULES = AffinityRules()
FEW = 16
"""So many are sooner handed over in lists."""
CONTENDERS: dict[str, type[Any]] = {"pymotor": Pymotor, "radix_tree": RadixTree, "plain_dict": PlainDict}
