"""The paired dialect's meeting place at prefill: what it offers and who came for it, in either order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Standing:
    """Blocks under the lease of `request_id` for whoever comes with the key."""

    request_id: str
    taken: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when decode has them."""


class Rendezvous:
    """Offers by key. An offer is for one; a second who comes waits as if nothing had been offered."""

    def __init__(self) -> None:
        self._offers: dict[str, Standing] = {}
        self._waiting: dict[str, list[asyncio.Future[Standing]]] = {}

    @property
    def offers(self) -> int:
        """Offers nobody has come for."""
        return len(self._offers)

    @property
    def waiting(self) -> int:
        """Those who came before there was an offer."""
        return sum(map(len, self._waiting.values()))

    def offer(self, key: str, request_id: str) -> Standing:
        """Offer a request's blocks; who waits longest gets them."""
        standing = Standing(request_id)
        while self._waiting.get(key):
            first = self._waiting[key].pop(0)
            if not first.done():
                first.set_result(standing)
                break
        else:
            self._offers[key] = standing
        if not self._waiting.get(key, True):
            del self._waiting[key]
        return standing

    def withdraw(self, key: str, standing: Standing) -> None:
        """Nobody gets this offer any more; harmless when it was taken."""
        if self._offers.get(key) is standing:
            del self._offers[key]

    def withdraw_unless(self, stands: Callable[[str], bool]) -> None:
        """Withdraw all offers of requests for which `stands` is false."""
        for key, standing in list(self._offers.items()):
            if not stands(standing.request_id):
                del self._offers[key]

    async def come(self, key: str, timeout: float) -> Standing:
        """The offer with this key, now or when it is made. Raises `asyncio.TimeoutError`."""
        standing = self._offers.pop(key, None)
        if standing is not None:
            return standing
        arrival: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(arrival)
        try:
            return await asyncio.wait_for(arrival, timeout)
        finally:
            queue = self._waiting.get(key, [])
            if arrival in queue:
                queue.remove(arrival)
                if not queue:
                    del self._waiting[key]
