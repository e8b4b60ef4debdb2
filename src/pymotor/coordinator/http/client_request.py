"""A client's request, and what a client may ask of the server that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pymotor.coordinator.http.known_heads import KnownHead, KnownHeads

if TYPE_CHECKING:
    from pymotor.coordinator.keys.api_key import ApiKey

ONCE = frozenset((b"host", b"transfer-encoding", b"authorization", b"x-api-key"))
"""Headers that a request may have once: what others read in a second one would differ from what is read here."""


class ClientRequest(msgspec.Struct, eq=False):
    """One request of a client, whole. A `Struct` because making one has to cost little."""

    method: bytes = b""
    path: bytes = b""
    query: bytes = b""
    headers: dict[bytes, bytes] = {}
    """By name in lower case; of a repeated header the last."""
    body: bytes = b""
    received_at: float = 0.0
    head: KnownHead | None = None
    """Where its head was known before it came; its headers lack the length then."""
    keep_alive: bool = True
    http_11: bool = True
    began_at: float = 0.0
    """When its first bytes were read; 0.0: all of it came at once."""
    key: ApiKey | None = None
    """Who it is from. This and the next are set, and read, only where there is a `Guard`."""
    charge: int = 0
    """Tokens it was charged with against the limits."""

    def __repr__(self) -> str:
        # Not what it holds: keys and prompts stay out of logs.
        return f"<ClientRequest {self.method!r} {self.path!r}>"


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

    __slots__ = ("arriving", "body_bytes", "body_idle", "closing", "head_bytes", "head_time", "heads", "once")

    def __init__(
        self,
        *,
        head_bytes: int,
        body_bytes: int,
        head_time: float,
        body_idle: float,
        arriving_bytes: int = 2 * 1024 * 1024 * 1024,
        once: frozenset[bytes] = frozenset(),
    ) -> None:
        """`once`: names, in lower case, of headers that must not be repeated, beside `ONCE`."""
        self.once = ONCE | once
        self.arriving = Arriving(arriving_bytes)
        self.closing = False
        """Whether the server ends: each answer is the last on its connection, and says so."""
        self.heads = KnownHeads()
        """Of requests that kept to all this."""
        self.use(
            head_bytes=head_bytes,
            body_bytes=body_bytes,
            head_time=head_time,
            body_idle=body_idle,
            arriving_bytes=arriving_bytes,
        )

    def use(self, *, head_bytes: int, body_bytes: int, head_time: float, body_idle: float, arriving_bytes: int) -> None:
        """These hold from now on, on open connections too."""
        self.head_bytes = head_bytes
        self.heads.use(body_bytes)
        self.body_bytes = body_bytes
        self.arriving.limit = arriving_bytes
        self.head_time = head_time
        self.body_idle = body_idle
