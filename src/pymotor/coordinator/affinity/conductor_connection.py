"""One connection to the KV Conductor: frames out, frames in, and who waits for which answer."""

from __future__ import annotations

import asyncio
import socket
from array import array

import msgspec
import numpy as np

from pymotor.control_plane.certificate_trouble import why_not
from pymotor.coordinator.affinity.matches import FEW, Holders, Matches
from pymotor.fleet.prefix_frames import FrameReader
from pymotor.fleet.prefix_queries import (
    LENGTH_BYTES,
    LONGEST_FRAME,
    PREFACE,
    Followed,
    FromConductor,
    FromCoordinator,
    Hello,
    PrefixMatches,
)

_SOONER_COPIED = 1 << 15
"""Bytes below which a copy is cheaper than a second write."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FromConductor)


class ConductorConnection(asyncio.Protocol):
    """See the module; whoever made it ends it with `abort`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, token: str) -> None:
        self._token = token
        self._frames = FrameReader()
        self._transport: asyncio.Transport
        self.lost: asyncio.Future[None] = loop.create_future()
        self.why = "it was closed"
        """Why it is over."""
        self.greeted = False
        """Whether the conductor has said anything."""
        self.holders: Holders | None = None
        """None until the conductor has said whom it follows."""
        self.waiting: dict[int, asyncio.Future[Matches | None]] = {}
        """By the number of the question."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        connected = transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.write(PREFACE)
        self.send(Hello(self._token))

    @property
    def unsent(self) -> int:
        """Bytes that wait to be taken."""
        return self._transport.get_write_buffer_size()

    def send(self, message: FromCoordinator) -> bool:
        """Say it. False: it is not said, because the conductor would hang up."""
        body = _encoder.encode(message)
        if len(body) > LONGEST_FRAME:
            return False
        length = len(body).to_bytes(LENGTH_BYTES, "little")
        if len(body) < _SOONER_COPIED:
            self._transport.write(length + body)
        else:
            self._transport.write(length)
            self._transport.write(body)
        return True

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        frames.feed(data)
        try:
            while (frame := frames.next()) is not None:
                self._take(_decoder.decode(frame))
        except (msgspec.MsgspecError, ValueError) as error:
            # Whoever it is does not speak the conductor's language.
            self.why = f"what it said is no word of a KV Conductor: {error}"
            self.abort()

    def _take(self, message: FromConductor) -> None:
        self.greeted = True
        if isinstance(message, Followed):
            self.holders = Holders(message.endpoints, message.revision)
            return
        waiting = self.waiting.get(message.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(self._matches(message))

    def _matches(self, message: PrefixMatches) -> Matches:
        holders = self.holders
        if holders is None or holders.revision != message.revision:
            raise ValueError("an answer by a list of endpoints that was not told")
        # Of few figures arrays are sooner made than numpy's.
        slots = array("H", message.slots)
        on_device, in_any_tier, expected = (
            array("I", field) for field in (message.on_device, message.in_any_tier, message.expected)
        )
        if not len(slots) == len(on_device) == len(in_any_tier) == len(expected) or _highest(slots) >= holders.size:
            raise ValueError("an answer whose columns do not fit together")
        return Matches(holders, message.number, slots, on_device, in_any_tier, expected)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.why = why_not(exc)
        if not self.lost.done():
            self.lost.set_result(None)
        for waiting in self.waiting.values():
            give_up(waiting)

    def abort(self) -> None:
        """Close it now."""
        self._transport.abort()


def give_up(waiting: asyncio.Future[Matches | None]) -> None:
    """An asker hears that there is no answer, unless it has one."""
    if not waiting.done():
        waiting.set_result(None)


def _highest(slots: array[int]) -> int:
    return max(slots, default=-1) if len(slots) <= FEW else int(np.frombuffer(slots, np.uint16).max())
