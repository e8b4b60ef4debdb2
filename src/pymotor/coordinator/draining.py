"""The end of clients' connections when a worker ends: each is closed when that loses nobody anything.

A request may be on its way when an idle connection is closed, and no server can answer it then. So an idle one is
left open for a while: the answer to what still comes on it says that the connection closes, and its client goes
elsewhere with the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from pymotor.coordinator.http.open_connections import OpenConnections
from pymotor.coordinator.http.server import ClientConnection

IDLE_SECONDS = 2.0
"""A connection without a request stays open for so long, and a handshake may take so long."""
LINGER_SECONDS = 1.0
"""A client that was sent all has so long to close after us."""
_LOOK_SECONDS = 0.02


async def drain(connections: OpenConnections, arriving: Callable[[], bool], ends: float) -> None:
    """End all `connections`, each as soon as nobody needs it; return when none is left, or at `ends` (`monotonic()`)
    with those that are. `arriving`: whether clients that were accepted have yet to become connections."""
    arrive_by = min(ends, monotonic() + IDLE_SECONDS)
    quiet: dict[ClientConnection, float] = {}
    over: dict[ClientConnection, float] = {}
    # Looked at again and again: a hook for it would cost every request.
    while (now := monotonic()) < ends:
        clients = list(connections)
        if not clients and not (now < arrive_by and arriving()):
            return
        quiet = {client: quiet.get(client, now) for client in clients if client.quiet}
        for client, since in quiet.items():
            if now - since >= IDLE_SECONDS:
                client.end_if_nothing_comes()
        over = {client: over.get(client, now) for client in clients if client.ended and not client.unsent}
        for client, since in over.items():
            if now - since >= LINGER_SECONDS:
                client.transport.abort()
        await asyncio.sleep(_LOOK_SECONDS)
