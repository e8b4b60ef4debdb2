"""Blocks kept for other engines: by the name of the request that computed them, until fetched or time is up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pymotor.engines.sim.blocks import BlockPool


@dataclass(frozen=True)
class Leased:
    """What one request left behind."""

    blocks: tuple[int, ...]
    expires: float
    """In the clock that the core's steps are given."""


class Leases:
    """Leases over the blocks of a pool; each ends exactly once."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._leases: dict[str, Leased] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[str]:
        return iter(self._leases)

    def __contains__(self, name: object) -> bool:
        return name in self._leases

    def __getitem__(self, name: str) -> Leased:
        return self._leases[name]

    def grant(self, name: str, blocks: tuple[int, ...], expires: float) -> None:
        """Keep blocks that the caller refers to; its references are the lease's from now on."""
        self._leases[name] = Leased(blocks, expires)

    def end(self, name: str) -> None:
        """Give the blocks back; harmless when the lease is over."""
        lease = self._leases.pop(name, None)
        if lease is not None:
            self._pool.release(lease.blocks)

    def lose(self, name: str) -> None:
        """End a lease as if its time were up and its blocks had been reused by another request."""
        lease = self._leases.get(name)
        if lease is not None:
            self._pool.scribble(lease.blocks)
            self.end(name)

    def expire(self, now: float) -> None:
        """End what nobody fetched in time."""
        for name in [name for name, lease in self._leases.items() if lease.expires <= now]:
            self.end(name)

    @property
    def next_expiry(self) -> float | None:
        """When the first lease ends, of those that end by themselves."""
        return min((lease.expires for lease in self._leases.values() if lease.expires < math.inf), default=None)
