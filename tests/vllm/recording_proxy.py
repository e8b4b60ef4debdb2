"""A TCP relay that keeps what went through it: the proof of who was sent what."""

from __future__ import annotations

import socket
import socketserver
import threading
from types import TracebackType
from urllib.parse import urlsplit


class RecordingProxy(socketserver.ThreadingTCPServer):
    """Relays connections to one server and keeps every byte that was sent to it. Use as a context manager."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target_url: str) -> None:
        """`target_url`: `http://host:port` of the server."""
        super().__init__(("127.0.0.1", 0), _Relay)
        target = urlsplit(target_url)
        self.target = (target.hostname or "", target.port or 80)
        self._sent: list[bytes] = []
        self._thread = threading.Thread(target=self.serve_forever, name=f"proxy of {target_url}")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def record(self, data: bytes) -> None:
        """Keep bytes on their way to the server."""
        self._sent.append(data)

    def sent(self) -> bytes:
        """All that was sent to the server since the last `forget()`; connections follow each other unordered."""
        return b"".join(self._sent)

    def forget(self) -> None:
        """Begin anew."""
        self._sent.clear()

    def __enter__(self) -> RecordingProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Relay(socketserver.BaseRequestHandler):
    """One connection: this thread relays to the server, a second one back."""

    server: RecordingProxy
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            back = threading.Thread(target=_relay_back, args=(upstream, self.request), daemon=True)
            back.start()
            try:
                while data := self.request.recv(65536):
                    self.server.record(data)
                    upstream.sendall(data)
            except OSError:
                pass  # either side has gone: the other one is told by the close
            finally:
                _end_sending(upstream)
                back.join()


def _relay_back(upstream: socket.socket, client: socket.socket) -> None:
    try:
        while data := upstream.recv(65536):
            client.sendall(data)
    except OSError:
        pass
    finally:
        _end_sending(client)
        _end_receiving(client)


def _end_sending(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _end_receiving(connection: socket.socket) -> None:
    """Wakes the thread that reads from it."""
    try:
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass
