"""Connections to one engine server, kept alive between exchanges."""

from __future__ import annotations

import asyncio
import logging
import ssl
from time import monotonic

from pymotor.control_plane.tls import ClientTLS
from pymotor.coordinator.http.exchange import ConnectFailed, HandshakeFailed
from pymotor.coordinator.http.framing import event_lines
from pymotor.coordinator.http.reply_head import ReplyHeads
from pymotor.coordinator.http.upstream import UpstreamConnection

logger = logging.getLogger(__name__)

IDLE_SECONDS = 4.0
"""Engines (uvicorn) close idle connections after 5 s; ours go before that."""


class SharedState:
    """What all pools of a worker share."""

    __slots__ = ("busy", "event_lines", "heads", "tls")

    def __init__(self, tls: ClientTLS | None = None) -> None:
        """`tls`: for engines at https addresses; None: there are none."""
        self.tls = tls
        self.busy: set[UpstreamConnection] = set()
        """Connections with a running exchange, for the owner's sweep of deadlines."""
        self.heads = ReplyHeads()
        self.event_lines = event_lines()


class UpstreamPool:
    """Connections to one engine server."""

    __slots__ = ("_closed", "_complaint", "_host", "_idle", "_port", "_secure", "busy", "shared", "suspect")

    def __init__(self, host: str, port: int, shared: SharedState, *, secure: bool = False) -> None:
        """`secure`: it speaks TLS, and its certificate names `host`."""
        self._host = host
        self._port = port
        self._secure = secure
        self._complaint = ""
        self._idle: list[UpstreamConnection] = []
        self._closed = False
        self.shared = shared
        self.busy = shared.busy
        self.suspect = False
        """Whether the fleet says that the engine is unhealthy: then a silent exchange is not waited for."""

    @property
    def host(self) -> str:
        """Where the server is."""
        return self._host

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
        context, name = self._trust() if self._secure else (None, None)
        # Not `wait_for`: before Python 3.12 it is deaf to a cancellation in the moment in which it succeeds.
        connecting = loop.create_task(
            loop.create_connection(
                lambda: UpstreamConnection(self), self._host, self._port, ssl=context, server_hostname=name
            )
        )
        try:
            await asyncio.wait((connecting,), timeout=timeout)
            if not connecting.done():
                raise ConnectFailed(f"no connection to {self._host}:{self._port} within {timeout:g} s")
            _, connection = connecting.result()
        except ssl.SSLError as error:
            raise self._no_tls(_whose(error)) from error
        except OSError as error:
            if self._secure and isinstance(error, (ConnectionResetError, ConnectionAbortedError)):
                raise self._no_tls(f"the engine ended the handshake; does it speak TLS 1.3? ({error})") from error
            raise ConnectFailed(f"no connection to {self._host}:{self._port}: {error.strerror or error}") from error
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(_abandon)
            raise
        return connection

    def _trust(self) -> tuple[ssl.SSLContext, str]:
        """Whose certificates are good, and what they must name."""
        if self.shared.tls is None:
            raise HandshakeFailed(
                f"{self._host}:{self._port} is an https address and infer_tls_config is off, so nobody says whose "
                "certificates are good"
            )
        return self.shared.tls.context(), self.shared.tls.peer_name or self._host

    def refused_by_engine(self, error: Exception | None) -> HandshakeFailed:
        """The server has ended the connection before its side of the handshake was over."""
        why = f" ({_words(error)})" if isinstance(error, ssl.SSLError) else ""
        return self._no_tls(f"the engine does not take the gateway's certificate{why}")

    def _no_tls(self, why: str) -> HandshakeFailed:
        """Why there is no TLS with this server, in words; a new reason is told in the log, once."""
        complaint = f"no TLS with {self._host}:{self._port}: {why}"
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("%s", complaint)
        return HandshakeFailed(complaint)

    def put_back(self, connection: UpstreamConnection) -> None:
        """The exchange is over and the connection may serve another."""
        if self._closed:
            connection.transport.abort()
            return
        self._complaint = ""
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
        self.close_idle()

    def close_idle(self) -> None:
        """Close what is idle now."""
        while self._idle:
            self._idle.pop().transport.abort()


def _whose(error: ssl.SSLError) -> str:
    """Whose certificate is at fault."""
    reason = _words(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the engine's certificate is not believed: {error.verify_message}"
    if "alert" in reason:
        return f"the engine does not believe the gateway's certificate ({reason})"
    if reason in ("wrong version number", "record layer failure", "unsupported protocol"):
        return f"the engine does not speak TLS 1.3 ({reason})"
    return reason


def _words(error: ssl.SSLError) -> str:
    return str(error.reason or error).lower().replace("_", " ")


def _abandon(connecting: asyncio.Task[tuple[asyncio.Transport, UpstreamConnection]]) -> None:
    """Nobody waits for the connection any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()
