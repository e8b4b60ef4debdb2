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


class Refused(Exception):
    """A request is not read to its end: it gets this status, and its connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Arriving:
    """The bodies of a process that are not whole yet, in bytes."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.limit = limit


class Limits:
    """What a client may do, and all together; times in seconds, sizes in bytes."""

    __slots__ = ("arriving", "body_bytes", "body_idle", "head_bytes", "head_time")

    def __init__(
        self,
        *,
        head_bytes: int,
        body_bytes: int,
        head_time: float,
        body_idle: float,
        arriving_bytes: int = 2 * 1024 * 1024 * 1024,
    ) -> None:
        self.head_bytes = head_bytes
        self.body_bytes = body_bytes
        self.arriving = Arriving(arriving_bytes)
        self.head_time = head_time
        self.body_idle = body_idle
