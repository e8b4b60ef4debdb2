"""Accepts clients that speak TLS: each connection with the newest certificates, handshakes bounded in time and number.

A protocol is made for a client at once and hears of its connection when the handshake is over. Whoever begins one and
does not go on must not keep others out: at the bound, the oldest handshake makes room for a new one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from pymotor.control_plane.tls import ServerTLS

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""A client has so long from its connection to the end of the handshake."""
HANDSHAKES = 1024
"""So many may be under way at once."""
_AT_ONCE = 16
"""Connections accepted in one turn of the loop: a handshake costs a signature, and running streams go on between."""
_PAUSE_SECONDS = 0.5
_TELL_SECONDS = 60.0
_FULL = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class TLSDoor:
    """Clients of one listening socket, which it owns. `open` it once, and `close` it on every way out."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        tls: ServerTLS,
        protocol: Callable[[], asyncio.Protocol],
        failed: Callable[[], None] = lambda: None,
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        handshakes: int = HANDSHAKES,
    ) -> None:
        """`protocol` makes what speaks with a client; `failed` is called for each handshake that came to nothing.
        `handshakes`: how many may be under way at once, each `handshake_seconds` at most."""
        self._loop = loop
        self._listener = listener
        self._tls = tls
        self._protocol = protocol
        self._failed = failed
        self._seconds = handshake_seconds
        self._limit = handshakes
        self._greeting: dict[asyncio.Task[None], None] = {}
        self._resuming: asyncio.TimerHandle | None = None
        self._untold = 0
        self._tell_again = 0.0
        self._closed = False

    @property
    def greeting(self) -> bool:
        """Whether handshakes are under way."""
        return bool(self._greeting)

    def open(self, backlog: int) -> None:
        """Listen. Raises `OSError`."""
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept who waits to be, and no more; handshakes that are under way go on until `close`."""
        if self._closed:
            return
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        else:
            while self._accept():
                pass
        self._closed = True
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def close(self) -> None:
        """Accept no more and give up handshakes that are under way."""
        self.stop()
        for greeting in list(self._greeting):
            greeting.cancel()

    def _accept(self) -> bool:
        """Accept some; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                client, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                logger.warning("no client can be accepted for a moment: %s", error)
                self._loop.remove_reader(self._listener)
                self._resuming = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return False
            client.setblocking(False)
            if len(self._greeting) >= self._limit:
                oldest = next(iter(self._greeting))
                del self._greeting[oldest]
                oldest.cancel()
            greeting = self._loop.create_task(self._greet(client))
            self._greeting[greeting] = None
            greeting.add_done_callback(self._greeted)
        return True

    def _resume(self) -> None:
        self._resuming = None
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _greet(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol, client, ssl=self._tls.context(), ssl_handshake_timeout=self._seconds
            )
        except (OSError, asyncio.TimeoutError) as error:
            self._failed()
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Strangers must not fill the log, and whoever sets up clients has to find the reason somewhere: asyncio closes
        such a connection without an alert."""
        self._untold += 1
        now = monotonic()
        if now >= self._tell_again:
            words = "%d handshakes of clients have failed since this was told last; the newest: %s"
            logger.warning(words, self._untold, _words(error))
            self._untold = 0
            self._tell_again = now + _TELL_SECONDS

    def _greeted(self, greeting: asyncio.Task[None]) -> None:
        self._greeting.pop(greeting, None)
        if not greeting.cancelled() and greeting.exception() is not None:
            logger.error("a handshake has failed for no reason foreseen", exc_info=greeting.exception())


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error) or type(error).__name__
