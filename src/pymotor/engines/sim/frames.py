"""How simulated engines talk to each other: messages over TCP, each a 4-byte big-endian length and MessagePack."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

log = logging.getLogger("pymotor.sim")

Message = dict[str, Any]

_LONGEST = 1 << 30
_STOP_SECONDS = 2.0
UNREACHABLE = (OSError, OverflowError, UnicodeError, asyncio.IncompleteReadError, RuntimeError)
"""What connections raise: uvloop a `RuntimeError` when written to after they were lost, and names that are no
names a `UnicodeError`."""


class TransferError(Exception):
    """Something could not be handed over; the message says why."""


class FrameServer:
    """Answers messages. `answer` returns the reply, or None for a message that has none."""

    def __init__(self, answer: Callable[[Message], Awaitable[Message | None]]) -> None:
        self._answer = answer
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
                reply = await self._answered(await receive(reader), reader)
                if reply is not None:
                    writer.write(framed(reply))
                    await writer.drain()
        except (*UNREACHABLE, msgspec.DecodeError, TransferError) as error:
            log.debug("another engine is gone: %s", error)
        finally:
            writer.close()

    async def _answered(self, message: Message, reader: asyncio.StreamReader) -> Message | None:
        """The answer, given up as soon as who asked is gone: nobody sends a second message before the reply."""
        answer = asyncio.ensure_future(self._answer(message))
        await asyncio.sleep(0)
        if answer.done():
            return answer.result()
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise TransferError("it left before the answer")
            return answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
                await asyncio.wait((task,))


async def ask(host: str, port: int, message: Message) -> Message:
    """The answer to one message over a connection of its own; waits for ever.

    Raises `TransferError` when nobody answers there.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(framed(message))
            return await receive(reader)
        finally:
            writer.close()
    except (*UNREACHABLE, KeyError, ValueError, msgspec.DecodeError) as error:
        raise TransferError(f"{host}:{port}: {error or type(error).__name__}") from error


def framed(message: Message) -> bytes:
    """A message as bytes."""
    data = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(data)) + data


async def receive(reader: asyncio.StreamReader) -> Message:
    """The next message. Raises what `UNREACHABLE` names, `msgspec.DecodeError` and `TransferError`."""
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    if length > _LONGEST:
        raise TransferError(f"a message of {length} bytes is too long")
    message = msgspec.msgpack.decode(await reader.readexactly(length))
    if not isinstance(message, dict):
        raise TransferError("a message is no map")
    return message
