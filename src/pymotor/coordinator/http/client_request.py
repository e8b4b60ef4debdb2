"""A client's request, and what a client may ask of the server that reads it."""

from __future__ import annotations


class ClientRequest:
    """One request of a client, whole."""

    __slots__ = ("body", "headers", "http_11", "keep_alive", "method", "path", "query", "received_at")

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.query = b""
        self.headers: dict[bytes, bytes] = {}
        """By name in lower case; of a repeated header the last."""
        self.body = b""
        self.keep_alive = True
        self.http_11 = True
        self.received_at = 0.0


class Limits:
    """What a client may do; times in seconds, sizes in bytes."""

    __slots__ = ("body_bytes", "body_idle", "head_bytes", "head_time")

    def __init__(self, *, head_bytes: int, body_bytes: int, head_time: float, body_idle: float) -> None:
        self.head_bytes = head_bytes
        self.body_bytes = body_bytes
        self.head_time = head_time
        self.body_idle = body_idle
