"""Connections to one engine server, kept alive between exchanges."""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.http.exchange import ConnectFailed
from pymotor.coordinator.http.reply_head import ReplyHeads
from pymotor.coordinator.http.upstream import UpstreamConnection

IDLE_SECONDS = 4.0
"""Engines (uvicorn) close idle connections after 5 s; ours go before that."""


class SharedState:
    """What all pools of a worker share."""

    __slots__ = ("busy", "heads")

    def __init__(self) -> None:
        self.busy: set[UpstreamConnection] = set()
        """Connections with a running exchange, for the owner's sweep of deadlines."""
        self.heads = ReplyHeads()


class UpstreamPool:
    """Connections to one engine server."""

    __slots__ = ("_closed", "_host", "_idle", "_port", "busy", "shared", "suspect")

    def __init__(self, host: str, port: int, shared: SharedState) -> None:
        self._host = host
        self._port = port
        self._idle: list[UpstreamConnection] = []
        self._closed = False
        self.shared = shared
        self.busy = shared.busy
        self.suspect = False
        """Whether the fleet says that the engine is unhealthy: then a silent exchange is not waited for."""

    @property
    def authority(self) -> bytes:
        """Host and port as a Host header wants them."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}".encode()

    def take_idle(self) -> UpstreamConnection | None:
        """The most recently used idle connection that is surely still open at the other end, if any."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.closed or connection.transport.is_closing():
                continue
            if monotonic() - connection.idle_since < IDLE_SECONDS:
                connection.reused = True
                return connection
            connection.transport.abort()
        return None

    async def connect(self, timeout: float) -> UpstreamConnection:
        """A new connection. Raises `ConnectFailed`."""
        loop = asyncio.get_running_loop()
        # Not `wait_for`: before Python 3.12 it is deaf to a cancellation in the moment in which it succeeds.
        connecting = loop.create_task(loop.create_connection(lambda: UpstreamConnection(self), self._host, self._port))
        try:
            await asyncio.wait((connecting,), timeout=timeout)
            if not connecting.done():
                raise ConnectFailed(f"no connection to {self._host}:{self._port} within {timeout:g} s")
            _, connection = connecting.result()
        except OSError as error:
            raise ConnectFailed(f"no connection to {self._host}:{self._port}: {error.strerror or error}") from error
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(_abandon)
            raise
        return connection

    def put_back(self, connection: UpstreamConnection) -> None:
        """The exchange is over and the connection may serve another."""
        if self._closed:
            connection.transport.abort()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close_expired(self, now: float) -> None:
        """Close connections that have been idle too long."""
        while self._idle and now - self._idle[0].idle_since >= IDLE_SECONDS:
            self._idle.pop(0).transport.abort()

    def close(self) -> None:
        """Close what is idle now and, as they end, the busy ones; new connections are still possible."""
        self._closed = True
        while self._idle:
            self._idle.pop().transport.abort()


def _abandon(connecting: asyncio.Task[tuple[asyncio.Transport, UpstreamConnection]]) -> None:
    """Nobody waits for the connection any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()
