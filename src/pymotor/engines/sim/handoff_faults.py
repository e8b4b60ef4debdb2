"""Handoffs that go wrong: what the core gets in place of what was handed over."""

from __future__ import annotations

import asyncio

import numpy as np

from pymotor.engines.sim.core_types import EmbeddingStore
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.frames import TransferError
from pymotor.engines.sim.model import Words


class HandoffFaults:
    """Spoils KV that arrives where a fault wants it. Remembers what came before, for handoffs that get mixed up."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._before: Words = np.zeros(0, dtype=np.uint64)

    async def spoil(self, states: Words, block_size: int) -> Words:
        """The words decode goes on with. Raises `TransferError` where the transfer is to fail."""
        struck = self._faults.take(Stage.KV_FETCHED)
        before, self._before = self._before, states
        if not struck:
            return states
        if "kv_hang" in struck:
            await forever()
        if "kv_fail" in struck:
            raise TransferError("a fault was asked for")
        if "kv_drop" in struck:
            blank: Words = np.zeros_like(states)
            return blank
        other: Words = np.zeros_like(states)
        other[: len(before)] = before[: len(states)]
        if "kv_swap" in struck:
            return other
        spoiled: Words = states.copy()
        spoiled[-block_size:] = other[-block_size:]
        return spoiled


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()


class FaultyEmbeddingStore:
    """An embedding store that loses or mixes up what is saved where a fault wants it."""

    def __init__(self, store: EmbeddingStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def load(self, identifier: str) -> Words | None:
        """As the store."""
        return self._store.load(identifier)

    def save(self, identifier: str, embedding: Words) -> None:
        """As the store, or not at all, or something else."""
        struck = self._faults.take(Stage.EMBEDDING_SAVED)
        if "ec_drop" in struck:
            return
        self._store.save(identifier, embedding ^ np.uint64(1) if "ec_wrong" in struck else embedding)
