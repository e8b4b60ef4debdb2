"""Events as an engine writes them, and what the conductor's core then answers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from pymotor.fleet.prefix_queries import PrefixMatches, PrefixQuery
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.events import decode_batch
from pymotor.kv_conductor.publisher_view import PublisherView

SIZE = 4


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def packed(tokens: Sequence[int]) -> bytes:
    return array("I", tokens).tobytes()


def question(tokens: Sequence[int], number: int = 1, **more: Any) -> PrefixQuery:
    return PrefixQuery(number, more.pop("model", "qwen"), memoryview(packed(tokens)), **more)


def answer(core: ConductorCore, asked: PrefixQuery) -> dict[str, tuple[int, int, int]]:
    """By endpoint: tokens on the device, in any tier, expected."""
    return by_endpoint(core, core.match("coordinator", asked))


def by_endpoint(core: ConductorCore, matches: PrefixMatches) -> dict[str, tuple[int, int, int]]:
    followed = core.followed()
    assert matches.revision == followed.revision
    slots = np.frombuffer(matches.slots, "<u2").tolist()
    assert slots == sorted(set(slots))
    columns = [
        np.frombuffer(column, "<u4").tolist() for column in (matches.on_device, matches.in_any_tier, matches.expected)
    ]
    return {followed.endpoints[slot]: values for slot, values in zip(slots, zip(*columns, strict=True), strict=True)}


def stored(
    tokens: Sequence[int], hashes: Sequence[int], *, parent: int | None = None, medium: str | None = "GPU", **more: Any
) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": parent,
        "token_ids": list(tokens),
        "block_size": SIZE,
        "lora_id": None,
        "medium": medium,
        "lora_name": None,
        **more,
    }


def removed(*hashes: int, medium: str | None = "GPU", **more: Any) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": medium, **more}


CLEARED = {"type": "AllBlocksCleared"}


def tell(view: PublisherView, *events: object) -> None:
    view.apply(decode_batch(msgspec.msgpack.encode([1.0, list(events), None])))
