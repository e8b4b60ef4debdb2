"""HTTP/1.1 by hand, for what no well-behaved client sends."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

SECONDS = 60.0


@dataclass
class RawReply:
    """One response as it stood on the wire, chunks joined."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class RawConnection:
    """One connection. Use as a context manager."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._received = b""

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(data))

    def reply(self, *, head_only: bool = False) -> RawReply:
        """The next response; `head_only` for an answer to HEAD. Raises `ConnectionError` when there is none."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        status = int(head[0].split(" ")[1])
        if head_only or status in (100, 204):
            body = b""
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            body = self.rest()
        return RawReply(status, headers, body)

    def rest(self) -> bytes:
        """All that comes until the other side closes or resets."""
        try:
            while received := self.socket.recv(65536):
                self._received += received
        except ConnectionResetError:
            pass
        rest, self._received = self._received, b""
        return rest

    def read_until(self, text: bytes) -> None:
        """Receive until `text` has come; `reply` has it too."""
        while text not in self._received:
            self._more()

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._until(b"\r\n") == b"\r\n"
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._more()
        found, _, self._received = self._received.partition(end)
        return found + end

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._more()
        found, self._received = self._received[:size], self._received[size:]
        return found

    def _more(self) -> None:
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError(f"closed after {self._received[:200]!r}")
        self._received += received


def post(body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    """A whole POST with its length."""
    lines = [f"POST {path} HTTP/1.1", "Host: gateway", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
