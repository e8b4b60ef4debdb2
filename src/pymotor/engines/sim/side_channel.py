"""How engines fetch KV from each other: a small protocol over TCP, in place of NIXL.

Each message is a 4-byte big-endian length and that many bytes of MessagePack. A consumer sends
`{"op": "read", "engine_id", "layout", "blocks"}` and gets `{"ok": true, "data": words}` or
`{"ok": false, "reason"}`; `{"op": "done", "engine_id", "request_id"}` frees the blocks and has no reply.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import KVSource, Pull

log = logging.getLogger("pymotor.sim")

_LONGEST = 1 << 30
_STOP_SECONDS = 2.0
_UNREACHABLE = (OSError, OverflowError, UnicodeError, asyncio.IncompleteReadError, RuntimeError)
"""What connections raise: uvloop a `RuntimeError` when written to after they were lost, and names that are no
names a `UnicodeError`."""


class TransferError(Exception):
    """KV could not be fetched; the message says why."""


class SideChannel:
    """The producer's end: serves reads of this engine's blocks."""

    def __init__(
        self,
        engine_id: str,
        layout: str,
        read_blocks: Callable[[tuple[int, ...]], Words],
        end_lease: Callable[[str], None],
    ) -> None:
        self._engine_id = engine_id
        self._layout = layout
        self._read_blocks = read_blocks
        self._end_lease = end_lease
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (a free one for port 0). Raises `OSError` when it is taken."""
        self._server = await asyncio.start_server(self._accept, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        connections = dict(self._connections)
        for task, writer in connections.items():
            task.cancel()
            writer.transport.abort()
        if connections:
            await asyncio.wait(connections, timeout=_STOP_SECONDS)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                reply = self._answer(await _receive(reader))
                if reply is not None:
                    writer.write(_framed(reply))
                    await writer.drain()
        except (*_UNREACHABLE, msgspec.DecodeError, TransferError) as error:
            log.debug("a consumer of KV is gone: %s", error)
        finally:
            writer.close()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        operation = message.get("op")
        if message.get("engine_id") != self._engine_id:
            return {"ok": False, "reason": f"this engine is {self._engine_id}, not {message.get('engine_id')}"}
        if operation == "done":
            self._end_lease(str(message.get("request_id")))
            return None
        if operation != "read":
            return {"ok": False, "reason": f"unknown operation {operation}"}
        if message.get("layout") != self._layout:
            return {"ok": False, "reason": f"KV layout is {self._layout}, not {message.get('layout')}"}
        try:
            words = self._read_blocks(tuple(int(block) for block in message["blocks"]))
        except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            return {"ok": False, "reason": f"no such blocks: {error}"}
        return {"ok": True, "data": words.tobytes()}


async def fetch(pull: Pull, layout: str, timeout: float) -> Words:
    """The words of the blocks a `Pull` names; tells the producer that it may free them.

    Raises `TransferError` when the producer refuses, is gone, or is silent for `timeout` seconds.
    """
    source = pull.source
    try:
        return await asyncio.wait_for(_fetch(source, layout), timeout)
    except asyncio.TimeoutError as error:
        raise TransferError(f"{source.host}:{source.port} does not answer") from error
    except (*_UNREACHABLE, KeyError, ValueError, msgspec.DecodeError) as error:
        raise TransferError(f"{source.host}:{source.port}: {error}") from error


async def give_up(source: KVSource, timeout: float = 5.0) -> None:
    """Tell a producer that nobody will fetch this; a producer that cannot be told lets its lease run out."""
    try:
        await asyncio.wait_for(_give_up(source), timeout)
    except (asyncio.TimeoutError, *_UNREACHABLE) as error:
        log.info("could not tell %s:%s to free %s: %s", source.host, source.port, source.request_id, error)


async def _fetch(source: KVSource, layout: str) -> Words:
    reader, writer = await asyncio.open_connection(source.host, source.port)
    try:
        read = {"op": "read", "engine_id": source.engine_id, "layout": layout, "blocks": list(source.blocks)}
        writer.write(_framed(read))
        reply = await _receive(reader)
        if not reply.get("ok"):
            raise TransferError(str(reply.get("reason")))
        words = np.frombuffer(reply["data"], dtype=np.uint64)
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
    return _framed({"op": "done", "engine_id": source.engine_id, "request_id": source.request_id})


def _framed(message: dict[str, Any]) -> bytes:
    data = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(data)) + data


async def _receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if length > _LONGEST:
        raise TransferError(f"a message of {length} bytes is too long")
    message = msgspec.msgpack.decode(await reader.readexactly(length))
    if not isinstance(message, dict):
        raise TransferError("a message is no map")
    return message
