"""How engines hand KV to each other: a small protocol in place of NIXL, Mooncake and their like.

`read` and `done` are the pull dialect's: the consumer reads blocks, then says that they may be freed. `write` is
the callback dialect's: the producer writes into the consumer's blocks and names the request they are for. `join`
is the paired dialect's: the consumer names the id it shares with a producer's request, and the reply comes when
that request is computed. Messages name the engine they are for, where the gateway said so, and the KV layout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from pymotor.engines.sim.frames import UNREACHABLE, FrameServer, Message, TransferError, ask, framed, receive
from pymotor.engines.sim.handoffs import KVSource, PushTarget
from pymotor.engines.sim.model import Words

log = logging.getLogger("pymotor.sim")


class KVPeer(Protocol):
    """What an engine does for others. What cannot be done raises one of `REFUSALS`."""

    def read_blocks(self, blocks: Sequence[int]) -> Words:
        """The words of these blocks."""

    def end_lease(self, request_id: str) -> None:
        """Another engine has what it wanted of this request."""

    async def receive_push(self, request_id: str, blocks: Sequence[int], states: Words) -> None:
        """KV for a request that waits under this external id, written into these blocks."""

    async def join(self, key: str) -> Words:
        """The KV of the request with this key, when it is computed."""


REFUSALS = (IndexError, KeyError, OverflowError, TypeError, ValueError, TransferError)


class SideChannel:
    """This engine's end: serves what others ask of it once it has a `peer` to ask."""

    def __init__(self, engine_id: str, layout: str) -> None:
        self._engine_id = engine_id
        self._layout = layout
        self._server = FrameServer(self._answer)
        self.peer: KVPeer | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (a free one for port 0). Raises `OSError` when it is taken."""
        return await self._server.start(host, port)

    async def stop(self) -> None:
        """Close the listener and every connection."""
        await self._server.stop()

    async def _answer(self, message: Message) -> Message | None:
        operation = message.get("op")
        if self.peer is None or message.get("engine_id") not in (self._engine_id, None):
            return _refusal(f"this engine is {self._engine_id}, not {message.get('engine_id')}")
        if operation == "done":
            self.peer.end_lease(str(message.get("request_id")))
            return None
        if message.get("layout") != self._layout:
            return _refusal(f"KV layout is {self._layout}, not {message.get('layout')}")
        try:
            return await self._moved(self.peer, str(operation), message)
        except REFUSALS as error:
            return _refusal(str(error) or type(error).__name__)

    async def _moved(self, peer: KVPeer, operation: str, message: Message) -> Message:
        if operation == "read":
            return {"ok": True, "data": peer.read_blocks(message["blocks"]).tobytes()}
        if operation == "write":
            states = np.frombuffer(message["data"], dtype=np.uint64)
            await peer.receive_push(str(message["request_id"]), message["blocks"], states)
            return {"ok": True}
        if operation == "join":
            return {"ok": True, "data": (await peer.join(str(message["key"]))).tobytes()}
        return _refusal(f"unknown operation {operation}")


async def fetch(source: KVSource, layout: str, timeout: float) -> Words:
    """The words of the blocks a source names; tells the producer that it may free them.

    Raises `TransferError` when the producer refuses, is gone, or is silent for `timeout` seconds.
    """
    try:
        return await asyncio.wait_for(_fetch(source, layout), timeout)
    except asyncio.TimeoutError as error:
        raise TransferError(f"{source.host}:{source.port} does not answer") from error
    except (*UNREACHABLE, KeyError, ValueError, msgspec.DecodeError) as error:
        raise TransferError(f"{source.host}:{source.port}: {error}") from error


async def give_up(source: KVSource, timeout: float = 5.0) -> None:
    """Tell a producer that nobody will fetch this; a producer that cannot be told lets its lease run out."""
    try:
        await asyncio.wait_for(_give_up(source), timeout)
    except (asyncio.TimeoutError, *UNREACHABLE) as error:
        log.info("could not tell %s:%s to free %s: %s", source.host, source.port, source.request_id, error)


async def push(target: PushTarget, layout: str, blocks: Sequence[int], states: Words) -> None:
    """Write words into another engine's blocks. Raises `TransferError` when it refuses or cannot be reached."""
    message = {"op": "write", "engine_id": target.engine_id, "layout": layout, "request_id": target.request_id}
    _agreed(await ask(target.host, target.port, {**message, "blocks": list(blocks), "data": states.tobytes()}))


async def join(host: str, port: int, engine_id: str | None, layout: str, key: str) -> Words:
    """The words of the request with this key on another engine, when it has computed it; waits for ever.

    Raises `TransferError` when it refuses or cannot be reached.
    """
    message = {"op": "join", "engine_id": engine_id, "layout": layout, "key": key}
    return _words(await ask(host, port, message))


async def _fetch(source: KVSource, layout: str) -> Words:
    reader, writer = await asyncio.open_connection(source.host, source.port)
    try:
        read = {"op": "read", "engine_id": source.engine_id, "layout": layout, "blocks": list(source.blocks)}
        writer.write(framed(read))
        words = _words(await receive(reader))
        writer.write(_done(source))
        await writer.drain()
        return words
    finally:
        writer.close()


async def _give_up(source: KVSource) -> None:
    _, writer = await asyncio.open_connection(source.host, source.port)
    try:
        writer.write(_done(source))
        await writer.drain()
    finally:
        writer.close()


def _done(source: KVSource) -> bytes:
    return framed({"op": "done", "engine_id": source.engine_id, "request_id": source.request_id})


def _refusal(reason: str) -> Message:
    return {"ok": False, "reason": reason}


def _agreed(reply: Message) -> None:
    if not reply.get("ok"):
        raise TransferError(str(reply.get("reason")))


def _words(reply: dict[str, Any]) -> Words:
    _agreed(reply)
    data = reply.get("data")
    if not isinstance(data, bytes):
        raise TransferError("a reply without words")
    return np.frombuffer(data, dtype=np.uint64)
