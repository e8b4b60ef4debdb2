"""HTTP servers of control planes: an application under uvicorn, on a socket, with signals and certificates that are the
owner's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pymotor.control_plane.accepting import Contexts, TLSAcceptor
from pymotor.control_plane.client_certificate import STATE_KEY

REQUEST_SECONDS = 15.0
"""From a request's first byte to its last; who takes longer is left. However long the answer takes does not matter."""


class HTTPConnection(HttpToolsProtocol):
    """A connection of a server; its requests' `state` says whether the client has shown a certificate."""

    _unfinished = True
    """Whether what comes next belongs to a request that is not whole yet."""
    _too_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        greeted = transport.get_extra_info("ssl_object")
        if greeted is not None and greeted.getpeercert(binary_form=True) is not None:
            self.app_state = {**self.app_state, STATE_KEY: True}
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        if self._unfinished and self._too_late is None and not self.transport.is_closing():
            self._too_late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._unfinished = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """See httptools."""
        self._unfinished = False
        self._forgive()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._forgive()
        super().connection_lost(exc)

    def _forgive(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


class AdminServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        graceful_seconds: int = 2,
        protocol: Callable[..., asyncio.Protocol] = HTTPConnection,
        tls: Contexts | None = None,
    ) -> None:
        """`graceful_seconds`: how long running requests may take once it is to finish. `protocol` makes what speaks
        on each connection, with the arguments of uvicorn's own protocol classes. `tls`: certificates, looked at again
        at most once a second for new connections; None: plain HTTP."""
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=graceful_seconds,
                ws="none",
                http=cast("type[asyncio.Protocol]", protocol),
                # Whoever is near is told by the connection, never by a header.
                proxy_headers=False,
            )
        )
        self._tls = tls
        self._accepting: list[asyncio.Task[None]] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handler."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn, whose own servers keep the certificates that they begin with."""
        tls = self._tls
        if tls is None or sockets is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        self.servers = []
        self._accepting = [asyncio.create_task(TLSAcceptor(one, tls, self._make_protocol).run()) for one in sockets]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def serve_on(self, listening: socket.socket) -> None:
        """Serve until `finish`; closes the socket."""
        await self.serve(sockets=[listening])

    def finish(self) -> None:
        """Stop accepting; `serve_on` returns when running requests are answered, or after `graceful_seconds`."""
        self.should_exit = True
