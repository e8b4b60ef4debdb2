"""A network that ends in time: however slowly the other side speaks, nothing is read or written after a deadline.

Time-outs of httpcore are for one operation of a socket each, so one byte now and then would keep it busy for ever. A
name's resolution alone takes as long as the system gives it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any

import httpcore

_LATE = "there is no time left"
_PIECE = 16_384


def shut(connection: socket.socket) -> None:
    """Whoever waits for it waits no more. From any thread."""
    # It may be closed at the other side.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class BoundedNetwork(httpcore.NetworkBackend):
    """For one thread that opens connections and uses them, and others that may `cut` them."""

    def __init__(self) -> None:
        self.opened = 0
        """Connections so far."""
        self.heard = False
        """Whether anything has come since `begin`."""
        self._deadline = 0.0
        self._cut = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    def begin(self, deadline: float) -> None:
        """Until then, of `monotonic()`, it may take."""
        self._deadline = deadline
        self.heard = False

    def cut(self) -> None:
        """From now on there is no time left, nor for what goes on now. From any thread."""
        with self._lock:
            self._cut = True
            for one in self._sockets:
                shut(one)

    def remaining(self, timeout: float | None = None) -> float:
        """Seconds, `timeout` at most. Raises `httpcore.TimeoutException`."""
        seconds = self._deadline - monotonic()
        if self._cut or seconds <= 0:
            raise httpcore.ReadTimeout(_LATE)
        return seconds if timeout is None else min(seconds, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """See httpcore; all addresses of the host share the time."""
        self.remaining()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        why: Exception = httpcore.ConnectError(f"{host} has no address")
        for *_, address in found:
            try:
                stream = httpcore.SyncBackend().connect_tcp(
                    str(address[0]), port, self.remaining(timeout), local_address, socket_options
                )
            except httpcore.ConnectError as error:
                why = error
                continue
            self.opened += 1
            return _BoundedStream(stream, self, self._reachable(stream))
        raise why

    def _reachable(self, stream: httpcore.NetworkStream) -> socket.socket:
        # A second handle, since TLS takes the first one away.
        handle: socket.socket = stream.get_extra_info("socket").dup()
        with self._lock:
            self._sockets.add(handle)
        return handle

    def forget(self, handle: socket.socket) -> None:
        """Its connection has ended."""
        with self._lock:
            self._sockets.discard(handle)
            handle.close()


class _BoundedStream(httpcore.NetworkStream):
    """One connection, or TLS on it."""

    def __init__(
        self, stream: httpcore.NetworkStream, network: BoundedNetwork, handle: socket.socket, layers: int = 0
    ) -> None:
        """`layers` of TLS are on it."""
        self._stream = stream
        self._network = network
        self._handle = handle
        self._layers = layers

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._ended_in_time(self._layers):
            found = self._stream.read(max_bytes, self._network.remaining(timeout))
        self._network.heard = self._network.heard or bool(found)
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: the time-out is for each that the socket takes.
        view = memoryview(buffer)
        for begin in range(0, len(view), _PIECE):
            self._stream.write(bytes(view[begin : begin + _PIECE]), self._network.remaining(timeout))

    def close(self) -> None:
        self._network.forget(self._handle)
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            with self._ended_in_time(self._layers + 1):
                stream = self._stream.start_tls(ssl_context, server_hostname, self._network.remaining(timeout))
        except BaseException:
            self.close()
            raise
        return _BoundedStream(stream, self._network, self._handle, self._layers + 1)

    @contextlib.contextmanager
    def _ended_in_time(self, layers: int) -> Iterator[None]:
        """TLS within TLS, as a proxy may need it, is several operations of the socket with a time-out each."""
        if layers <= 1:
            yield
            return
        watch = threading.Timer(self._network.remaining(), shut, (self._handle,))
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
