"""A relay of TCP connections that can be cut and mended."""

from __future__ import annotations

import contextlib
import socket
import threading

from free_ports import free_port


class TCPRelay:
    """Passes connections to its port on to another one of this machine. Use as a context manager."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._listening: socket.socket | None = None
        self._passed: list[socket.socket] = []

    def __enter__(self) -> TCPRelay:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Take connections."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def close(self) -> None:
        """Cut all connections and take no new ones."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        for one in (listening, *self._passed):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._passed.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._passed += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
