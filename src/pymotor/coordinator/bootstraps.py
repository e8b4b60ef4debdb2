"""Prefill's engine ids, as its bootstrap server tells them.

Protocol: vLLM's MooncakeConnector. `GET /query` answers with one entry for each data parallel rank of the engine,
`{"0": {"engine_id": "…", "worker_addr": {…}}}`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.http.exchange import BadReply
from pymotor.coordinator.http.small_request import get
from pymotor.coordinator.http.upstream_pool import SharedState, UpstreamPool

DEFAULT_PORT = 8998
"""`VLLM_MOONCAKE_BOOTSTRAP_PORT` and SGLang's `--disaggregation-bootstrap-port`, where nobody has set them."""
_SECONDS = 5.0


class Rank(NamedTuple):
    """One data parallel rank of a prefill engine."""

    number: int | None
    """None where the engine has only one, so that none has to be named."""
    engine_id: str


class _Entry(msgspec.Struct):
    engine_id: str


_decoder = msgspec.json.Decoder(dict[int, _Entry])


class Bootstraps:
    """What bootstrap servers have told one worker; asked once, and again after `forget`."""

    __slots__ = ("_known", "_shared", "_turn")

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared
        self._known: dict[str, tuple[Rank, ...]] = {}
        self._turn = 0

    async def rank(self, address: str) -> Rank:
        """A rank of the engine whose bootstrap server is at `address` (`http://host:port`), each in turn. Raises
        `UpstreamError`."""
        ranks = self._known.get(address)
        if ranks is None:
            ranks = self._known[address] = await self._ask(address)
        self._turn += 1
        return ranks[self._turn % len(ranks)]

    def forget_all(self) -> None:
        """The fleet has changed: engines may have been started anew."""
        self._known.clear()

    def forget(self, address: str) -> None:
        """A handoff has failed: the engine may be another one by now."""
        self._known.pop(address, None)

    async def _ask(self, address: str) -> tuple[Rank, ...]:
        parts = urlsplit(address)
        pool = UpstreamPool(parts.hostname or "", parts.port or DEFAULT_PORT, self._shared)
        try:
            reply = await get(pool, b"/query", _SECONDS)
        finally:
            pool.close()
        if reply.status != 200:
            raise BadReply(f"the bootstrap server at {address} answered with status {reply.status}")
        try:
            entries = _decoder.decode(reply.body)
        except UNREADABLE as error:
            raise BadReply(f"the bootstrap server at {address} names no engine ids: {error}") from error
        if not entries:
            raise BadReply(f"no engine has registered at the bootstrap server {address} yet")
        if len(entries) == 1:
            return tuple(Rank(None, entry.engine_id) for entry in entries.values())
        return tuple(Rank(number, entry.engine_id) for number, entry in entries.items())
