"""The inference port of a worker that ends, where decode engines call back: they are heard until the last request is
over, and nobody else is any more.
"""

from __future__ import annotations

import asyncio

from pymotor.coordinator.callbacks import CALLBACK_PATH
from pymotor.coordinator.draining import drain
from pymotor.coordinator.http.client_request import ClientRequest, Limits
from pymotor.coordinator.http.open_connections import OpenConnections
from pymotor.coordinator.http.server import ClientConnection, Refusal
from pymotor.coordinator.metaserver import Metaserver

_LEAST, _MOST = 16, 256
"""Connections at a time. Who does nothing with one makes room for the next, so that a callback always finds some."""
_ENDING = "this gateway is about to end and takes no more requests; ask another one"


class LateCallbacks:
    """Who connects while `hear` runs, but for its first moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metaserver: Metaserver, refusal: Refusal, clients: int) -> None:
        """`refusal` makes the answer to those who come with anything but a callback. `clients`: how many connections
        the worker's clients may have; those of the last of them may still be open."""
        self._loop = loop
        self._metaserver = metaserver
        self._refusal = refusal
        self.connections = OpenConnections(max(_LEAST, min(_MOST, clients // 4)))
        self.only = False
        """Whether a connection that is opened now is to be one of these."""

    async def hear(self, clients: OpenConnections, seconds: float, ends: float) -> None:
        """End the connections of `clients`; return when none is left, or at `ends` (`monotonic()`). Who connects within
        `seconds` is still one of them."""
        self._loop.call_later(seconds, self._begin)
        await drain(clients, lambda: not self.only, ends)
        self._begin()

    def connection(self, limits: Limits) -> ClientConnection:
        """One that has just been opened."""
        return ClientConnection(self._loop, self._handle, self._refusal, limits, self.connections)

    def _begin(self) -> None:
        self.only = True

    async def _handle(self, client: ClientConnection, request: ClientRequest) -> None:
        if request.path.startswith(CALLBACK_PATH):
            await self._metaserver.handle_shared(client, request)
        else:
            client.respond(self._refusal(request, 503, _ENDING))
