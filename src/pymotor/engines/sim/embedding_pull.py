"""ECCPUConnector: an encoder keeps embeddings in host memory and says where, who needs them fetches them from there.

As in vLLM 0.32 with `ec_enable_nixl`: an item that cannot be had is encoded by the consumer if it has the media;
otherwise its request fails.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np

from pymotor.engines.sim.embedding_shelf import EmbeddingShelf
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.frames import FrameServer, Message, TransferError, ask
from pymotor.engines.sim.handoff_faults import forever
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import MediaItem, Output, Request

log = logging.getLogger("pymotor.sim")


class EmbeddingPull:
    """One engine's end of pulled embeddings: it announces and serves its own and fetches those of others."""

    def __init__(
        self, shelf: EmbeddingShelf, layout: str, bytes_per_token: int, wait_seconds: float, faults: Faults
    ) -> None:
        self._shelf = shelf
        self._layout = layout
        self._bytes_per_token = bytes_per_token
        self._wait_seconds = wait_seconds
        self._faults = faults
        self._server = FrameServer(self._answer)
        self._address: tuple[str, int] | None = None
        self.kept = 0
        """Embeddings that were promised to somebody: none, the shelf gives what it happens to have."""

    async def start(self, host: str, port: int) -> int:
        """Serve what is on the shelf; returns the port. Raises `OSError` when it is taken."""
        bound = await self._server.start(host, port)
        self._address = host, bound
        return bound

    async def stop(self) -> None:
        """Close the listener and every connection."""
        await self._server.stop()

    def announce(self, item: MediaItem, _request: Request) -> dict[str, Any]:
        """What the encoder's answer says of an item; without metadata where nobody could fetch it, as in vLLM."""
        if self._address is None:
            return {"metadata": item.metadata}
        if self._shelf.load(item.identifier) is None:
            return {"metadata": {}}
        host, port = self._address
        return {"metadata": item.metadata, "peer_host": host, "peer_port": port, **self._size(item.tokens)}

    def gathers(self, request: Request) -> bool:
        """Whether an item of the request is announced elsewhere and not here yet."""
        return any(self._source(item, request) is not None for item in request.media)

    async def gather(self, request: Request) -> bool:
        """Fetch what is announced. False when an item cannot be had and there is no media to encode."""
        found = await asyncio.gather(*(self._fetched(item, request) for item in request.media))
        return all(found)

    def release(self, _request: Request) -> None:
        """Nothing: what was fetched stays on the shelf until room is needed."""

    def delivers(self, _request: Request) -> bool:
        """An answer waits for nothing."""
        return False

    async def deliver(self, output: Output) -> None:
        """Nothing: who wants an embedding comes for it."""

    def _source(self, item: MediaItem, request: Request) -> dict[str, Any] | None:
        announced = (request.ec_transfer_params or {}).get(item.identifier)
        if not isinstance(announced, dict) or "peer_host" not in announced:
            return None
        return None if self._shelf.load(item.identifier) is not None else announced

    async def _fetched(self, item: MediaItem, request: Request) -> bool:
        source = self._source(item, request)
        if source is None:
            return True
        try:
            self._shelf.save(item.identifier, await asyncio.wait_for(self._fetch(item, source), self._wait_seconds))
        except (TransferError, asyncio.TimeoutError) as error:
            log.warning("embedding %s could not be fetched: %s", item.identifier, error or type(error).__name__)
            return item.content_digest is not None
        return True

    async def _fetch(self, item: MediaItem, source: dict[str, Any]) -> Words:
        if "ec_hang" in self._faults.take(Stage.EMBEDDING_MOVED):
            await forever()
        said = {name: source.get(name) for name in ("size_bytes", "shape")}
        if said != self._size(item.tokens):
            raise TransferError(f"it was announced as {said}")
        host, port = source.get("peer_host"), source.get("peer_port")
        if not isinstance(host, str) or not isinstance(port, int):
            raise TransferError(f"{host}:{port} is no address")
        reply = await ask(host, port, {"op": "read", "layout": self._layout, "mm_hash": item.identifier})
        data = reply.get("data")
        if not reply.get("ok") or not isinstance(data, bytes) or len(data) != 8 * item.tokens:
            raise TransferError(str(reply.get("reason") or "another size than announced"))
        return np.frombuffer(data, dtype=np.uint64)

    def _size(self, tokens: int) -> dict[str, Any]:
        return {"size_bytes": tokens * self._bytes_per_token, "shape": [tokens, self._bytes_per_token // 2]}

    async def _answer(self, message: Message) -> Message:
        if message.get("op") != "read" or message.get("layout") != self._layout:
            return {"ok": False, "reason": f"this engine reads {self._layout}, not {message.get('layout')}"}
        embedding = self._shelf.load(str(message.get("mm_hash")))
        if embedding is None:
            return {"ok": False, "reason": "it is not here any more"}
        return {"ok": True, "data": embedding.tobytes()}
