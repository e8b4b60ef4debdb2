"""Connections with TLS: each is greeted with the newest certificates, those that are there go on with theirs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Protocol

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
MOST_HANDSHAKES = 256
"""Under way at once; beyond them the oldest makes room, so that who begins one and does not go on keeps nobody out."""
_LOOK_SECONDS = 1.0
"""Between two looks at the certificates' files."""
_FULL_SECONDS = 1.0
"""What is waited when the process has no file descriptor left."""
_MOST_TOLD = 64
_NO_TLS = frozenset(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"))
"""OpenSSL's reasons where what came is no TLS at all: it sends no alert for them (SSL_AD_NO_ALERT)."""


class Contexts(Protocol):
    """Certificates that are renewed; see `ServerTLS`."""

    def context(self) -> ssl.SSLContext:
        """The newest."""

    def renewed(self) -> bool:
        """Look whether there is a newer one."""


_failures: ContextVar[list[ssl.SSLError]] = ContextVar("failures of the handshake of this connection")


class _Alerting(ssl.SSLObject):
    """asyncio drops a connection whose handshake failed without sending the alert that says why (RFC 8446, section
    6.2). So a failure looks like a handshake that goes on: what is to be sent is, and the client closes."""

    _failed: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """See `ssl.SSLObject`."""
        if self._failed is not None:
            raise self._failed
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            _failures.get().append(error)
            if error.reason in _NO_TLS:
                raise  # who speaks no TLS would wait for an answer, and nobody would close
            self._failed = error
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert is to be sent first") from error


class TLSAcceptor:
    """`run()` as a task; cancelled, it gives up handshakes that are under way. The socket stays its owner's.

    asyncio's own servers have one context for their whole life, and closing one may lose what it has just accepted.
    """

    def __init__(
        self,
        listening: socket.socket,
        contexts: Contexts,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        """`handshake_seconds`: how long a client has for it."""
        self._listening = listening
        self._contexts = contexts
        self._make_protocol = make_protocol
        self._seconds = handshake_seconds
        self._greetings: dict[asyncio.Task[None], None] = {}
        self._looked_at = monotonic()
        self._told: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(self._listening)
                except OSError as error:
                    logger.warning("no connection can be accepted for a moment: %s", error)
                    await asyncio.sleep(_FULL_SECONDS)
                    continue
                if len(self._greetings) >= MOST_HANDSHAKES:
                    oldest = next(iter(self._greetings))
                    del self._greetings[oldest]
                    oldest.cancel()
                greeting = loop.create_task(self._greet(connection, str(address[0])))
                self._greetings[greeting] = None
                greeting.add_done_callback(lambda over: self._greetings.pop(over, None))
        finally:
            left = list(self._greetings)
            for greeting in left:
                greeting.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _greet(self, connection: socket.socket, peer: str) -> None:
        failures: list[ssl.SSLError] = []
        _failures.set(failures)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._newest_context(),
                ssl_handshake_timeout=self._seconds,
            )
        except (OSError, asyncio.TimeoutError) as error:
            self._tell(peer, _in_words(failures[0] if failures else error))
        except BaseException:
            connection.close()
            raise

    def _newest_context(self) -> ssl.SSLContext:
        now = monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._contexts.renewed()
        context = self._contexts.context()
        context.sslobject_class = _Alerting
        return context

    def _tell(self, peer: str, why: str) -> None:
        """Once for each client and reason; a scan of the port must not fill the disk."""
        if (peer, why) in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add((peer, why))
        logger.info("a connection of %s is not let in: %s", peer, why)


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__
