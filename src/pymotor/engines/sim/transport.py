"""HTTP/1.1 by uvicorn's protocol, with a hold on the connection that faults and aborts need."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pymotor.engines.sim.server_tls import ServerContext

KEEP_ALIVE_SECONDS = 5
DOOMED_SECONDS = 1.0


class Connection(HttpToolsProtocol):
    """A client's connection; found in `scope["state"]["connection"]` of its requests."""

    _doomed = False
    on_lost: Callable[[], None] | None = None
    """Called once when the connection is lost; set by whoever answers a request on it."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        callback, self.on_lost = self.on_lost, None
        if callback is not None:
            callback()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._doomed:
            self.transport.close()
        else:
            super().data_received(data)

    def watch(self) -> None:
        """Go on reading, so that a client that leaves is noticed: uvicorn pauses after a long piece of a body."""
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def doom(self) -> None:
        """Close without a word after this response: when the client sends again, or soon.

        vLLM writes a traceback before it closes, which gives a client time to send its next request in vain.
        """
        self._doomed = True
        self.loop.call_later(DOOMED_SECONDS, self.transport.close)

    def abandon(self) -> None:
        """Drop the connection in the middle of a request; the server is not to miss a response."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()

    def break_off(self) -> None:
        """Close after what was written, in the middle of a response."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()

    def reset(self) -> None:
        """Drop the connection so that the client sees a reset, not an end."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.transport.abort()


class HTTPServer:
    """Listens for an ASGI application. `close` ends everything at once."""

    def __init__(
        self, application: Any, keep_alive: int = KEEP_ALIVE_SECONDS, tls: ServerContext | None = None
    ) -> None:
        """`tls`: for HTTPS; None: plain HTTP."""
        self._tls = tls
        self._config = Config(
            application,
            http=Connection,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive,
            proxy_headers=False,
        )
        self._config.load()
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._address: tuple[str, int] = ("", 0)
        self._clock: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to listen; returns the port. Raises `OSError` when it is taken."""
        loop = asyncio.get_running_loop()
        context = self._tls.context if self._tls is not None else None
        self._server = await loop.create_server(self._connection, host, port, backlog=2048, ssl=context)
        self._address = (host, self._server.sockets[0].getsockname()[1])
        if self._clock is None:
            self._tick()
        return self._address[1]

    async def refuse(self, seconds: float) -> None:
        """Refuse connections for a while: the port is closed, then opened again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in list(self._state.connections):
            cast(Connection, connection).reset()
        await asyncio.sleep(seconds)
        await self.listen(*self._address)

    def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        if self._clock is not None:
            self._clock.cancel()
        for connection in list(self._state.connections):
            cast(Connection, connection).transport.abort()

    def _connection(self) -> Connection:
        return Connection(self._config, self._state, {})

    def _tick(self) -> None:
        """Keep the headers that every response has, the date among them, fresh, and the certificates."""
        if self._tls is not None:
            self._tls.refresh()
        date = formatdate(usegmt=True).encode()
        self._state.default_headers = [(b"date", date), (b"server", b"uvicorn")]
        self._clock = asyncio.get_running_loop().call_later(1, self._tick)
