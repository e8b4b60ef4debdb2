"""One port for two protocols: what begins with `PREFACE` speaks frames, everything else HTTP.

No HTTP request begins with the preface's first byte, so that one decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import cast

from pymotor.fleet.prefix_queries import PREFACE, PREFACE_OF_ANY_VERSION

logger = logging.getLogger(__name__)

DECISION_SECONDS = 10.0
"""How long a connection may say nothing at all."""


TOLD_SECONDS = 60.0
"""Between two warnings: who is refused tries again and again."""


class OtherVersions:
    """Warns of clients that speak frames of another version."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds, never going back."""
        self._clock = clock
        self._told_at: float | None = None
        self._refused = 0
        """Connections since it was told last."""

    def refused(self, peer: object, version: bytes) -> None:
        """One more connection was closed for it; `version` is what follows the preface of any version."""
        self._refused += 1
        now = self._clock()
        if self._told_at is not None and now < self._told_at + TOLD_SECONDS:
            return
        logger.warning(
            "the connection of %s is closed: it speaks frames of version %s, and here version %s is spoken; is its "
            "Coordinator of another release? (%d connections so far, or since this was said last)",
            peer,
            version[:4].hex() or "unknown",
            PREFACE[len(PREFACE_OF_ANY_VERSION) : -1].hex(),
            self._refused,
        )
        self._told_at, self._refused = now, 0


class FrontDoor(asyncio.Protocol):
    """A connection of which nobody knows yet what it speaks."""

    def __init__(
        self,
        speak_http: Callable[[], asyncio.Protocol],
        speak_frames: Callable[[], asyncio.Protocol],
        others: OtherVersions,
    ) -> None:
        """`others` hears of those that are refused for their version."""
        self._others = others
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
            if begin.startswith(PREFACE_OF_ANY_VERSION):
                version = begin[len(PREFACE_OF_ANY_VERSION) :].partition(b"\n")[0]
                self._others.refused(self._transport.get_extra_info("peername"), version)
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
