"""ECMooncakeConnector: an encoder is told who will need its embeddings and sends them there.

As in vLLM 0.32: encoder and consumer know a transfer by the id that the gateway gave both, and match ids with items
by hash, else by position. A consumer waits for every item that it has not in its encoder cache, even if it has the
media; what does not come within `push_wait_timeout_s` fails the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pymotor.engines.sim.embedding_shelf import EmbeddingShelf
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.frames import FrameServer, Message, TransferError, ask
from pymotor.engines.sim.handoff_faults import forever
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import MediaItem, Output, Request

log = logging.getLogger("pymotor.sim")

KEPT_SECONDS = 300.0


@dataclass(frozen=True)
class _Arrival:
    """What somebody pushed and nobody took yet."""

    identifier: str
    embedding: Words
    expiry: asyncio.TimerHandle


class EmbeddingPush:
    """One engine's end of pushed embeddings: it sends its own and takes in those of others."""

    def __init__(
        self,
        shelf: EmbeddingShelf,
        layout: str,
        wait_seconds: float,
        faults: Faults,
        *,
        consumes: bool,
        has: Callable[[str], bool],
    ) -> None:
        self._shelf = shelf
        self._layout = layout
        self._wait_seconds = wait_seconds
        self._faults = faults
        self._consumes = consumes
        self._has = has
        self._server = FrameServer(self._answer)
        self._arrived: dict[str, _Arrival] = {}
        self._changed: set[asyncio.Future[None]] = set()

    @property
    def kept(self) -> int:
        """Embeddings that arrived and wait for their request."""
        return len(self._arrived)

    async def start(self, host: str, port: int) -> int:
        """Take in what encoders send; returns the port. Raises `OSError` when it is taken."""
        return await self._server.start(host, port)

    async def stop(self) -> None:
        """Close the listener and every connection, and forget what arrived."""
        for arrival in self._arrived.values():
            arrival.expiry.cancel()
        self._arrived.clear()
        await self._server.stop()

    def announce(self, item: MediaItem, request: Request) -> dict[str, Any]:
        """What the encoder's answer says of an item."""
        name = _transfer_id(item, request)
        return {"metadata": item.metadata, **({} if name is None else {"transfer_id": name})}

    def gathers(self, request: Request) -> bool:
        """Whether the request has to wait for an item."""
        return self._consumes and not all(self._has(item.identifier) for item in request.media)

    async def gather(self, request: Request) -> bool:
        """Wait for what encoders send. False when it does not come in time."""
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        for item in request.media:
            while not self._has(item.identifier) and not self._take(item, request):
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    log.warning("embedding %s of %s was never sent", item.identifier, request.id)
                    return False
                await self._change(left)
        return True

    def release(self, request: Request) -> None:
        """A request is over: what was sent for it goes."""
        for item in _items(request):
            self._forget(str(item.get("transfer_id")))

    def delivers(self, request: Request) -> bool:
        """Whether the answer to a request waits until its embeddings are where they are needed."""
        return bool(request.media) and _consumer(request) is not None

    async def deliver(self, output: Output) -> None:
        """Send what was encoded. Raises `TransferError` when the consumer refuses or cannot be reached."""
        request = output.request
        address = urlsplit(_consumer(request) or "")
        try:
            host, port = address.hostname, address.port
        except ValueError as error:
            raise TransferError(f"consumer_zmq: {error}") from error
        if host is None or port is None:
            raise TransferError(f"{_consumer(request)!r} is no address like tcp://host:port")
        for index, (item, embedding) in enumerate(zip(request.media, output.embeddings, strict=True)):
            await self._send(host, port, item, _transfer_id(item, request) or f"{request.id}:{index}", embedding)

    async def _send(self, host: str, port: int, item: MediaItem, name: str, embedding: Words) -> None:
        struck = {**self._faults.take(Stage.EMBEDDING_SAVED), **self._faults.take(Stage.EMBEDDING_MOVED)}
        if "ec_hang" in struck:
            await forever()
        if "ec_drop" in struck or "ec_push_lost" in struck:
            return
        words = embedding ^ np.uint64(1) if "ec_wrong" in struck else embedding
        message = {"op": "push", "layout": self._layout, "mm_hash": item.identifier, "transfer_id": name}
        reply = await ask(host, port, {**message, "data": words.tobytes()})
        if not reply.get("ok"):
            raise TransferError(str(reply.get("reason")))

    async def _answer(self, message: Message) -> Message:
        name, data = str(message.get("transfer_id")), message.get("data")
        if message.get("op") != "push" or message.get("layout") != self._layout or not isinstance(data, bytes):
            return {"ok": False, "reason": f"this engine takes {self._layout}, not {message.get('layout')}"}
        self._forget(name)
        expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, name)
        self._arrived[name] = _Arrival(str(message.get("mm_hash")), np.frombuffer(data, dtype=np.uint64), expiry)
        for waiter in self._changed:
            if not waiter.done():
                waiter.set_result(None)
        return {"ok": True}

    def _take(self, item: MediaItem, request: Request) -> bool:
        """Put the item's embedding where the core finds it, if it has arrived: under its id, else under any."""
        name = _transfer_id(item, request)
        if name is None or name not in self._arrived or self._arrived[name].identifier != item.identifier:
            fitting = (key for key, arrival in self._arrived.items() if arrival.identifier == item.identifier)
            name = next(fitting, None)
        if name is None:
            return False
        self._shelf.replace(item.identifier, self._arrived[name].embedding)
        return True

    def _forget(self, name: str) -> None:
        arrival = self._arrived.pop(name, None)
        if arrival is not None:
            arrival.expiry.cancel()

    async def _change(self, seconds: float) -> None:
        """Wait until something arrives, or for so long."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=seconds)
        finally:
            self._changed.discard(waiter)


def _items(request: Request) -> list[dict[str, Any]]:
    items = (request.ec_transfer_params or {}).get("ec_items")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _transfer_id(item: MediaItem, request: Request) -> str | None:
    """The id of an item's transfer: of the entry at its position unless that names another hash, else by hash."""
    entries = _items(request)
    index = request.media.index(item)
    if index < len(entries) and entries[index].get("mm_hash") in (None, item.identifier):
        name = entries[index].get("transfer_id")
        if name:
            return str(name)
    for entry in entries:
        if entry.get("mm_hash") == item.identifier and entry.get("transfer_id"):
            return str(entry["transfer_id"])
    return None


def _consumer(request: Request) -> str | None:
    address = (request.ec_transfer_params or {}).get("consumer_zmq")
    return address if isinstance(address, str) else None
