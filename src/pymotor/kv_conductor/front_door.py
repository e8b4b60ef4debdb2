"""One port for two protocols: what begins with `PREFACE` speaks frames, everything else HTTP.

No HTTP request begins with the preface's first byte, so that one decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from pymotor.fleet.prefix_queries import PREFACE

DECISION_SECONDS = 10.0
"""How long a connection may say nothing at all."""


class FrontDoor(asyncio.Protocol):
    """A connection of which nobody knows yet what it speaks."""

    def __init__(
        self, speak_http: Callable[[], asyncio.Protocol], speak_frames: Callable[[], asyncio.Protocol]
    ) -> None:
        self._speak_http = speak_http
        self._speak_frames = speak_frames
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._begin = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for its first bytes."""
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(DECISION_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Decide, and hand the connection over."""
        begin = self._begin = self._begin + data
        if begin[0] != PREFACE[0]:
            self._hand_over(self._speak_http(), begin)
        elif begin.startswith(PREFACE):
            self._hand_over(self._speak_frames(), begin[len(PREFACE) :])
        elif not PREFACE.startswith(begin) and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Gone before it had said enough."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None

    def _hand_over(self, protocol: asyncio.Protocol, begin: bytes) -> None:
        assert self._transport is not None
        assert self._deadline is not None
        self._deadline.cancel()
        transport, self._transport = self._transport, None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if begin:
            protocol.data_received(begin)
