"""What passes between a connection to an engine and who waits for its reply."""

from __future__ import annotations

from typing import Protocol

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """A leg failed in transport; `reason` is one word for metrics."""

    reason = "transport"


class ConnectFailed(UpstreamError):
    """No connection: refused, unreachable or too slow. The engine has not seen the request."""

    reason = "connect"


class HandshakeFailed(ConnectFailed):
    """The certificate of one side does not satisfy the other, or the engine speaks no TLS. It has not seen the
    request."""

    reason = "tls"


NO_CONNECTION = frozenset((ConnectFailed.reason, HandshakeFailed.reason))
"""Reasons for which the engine has not seen the request."""


class StaleConnection(UpstreamError):
    """A kept-alive connection was closed before a byte of the reply came."""

    reason = "stale"


class ConnectionBroken(UpstreamError):
    """The engine closed or reset the connection before the reply was whole."""

    reason = "reset"


class BadReply(UpstreamError):
    """The engine's bytes are not HTTP as they should be."""

    reason = "protocol"


class DeadlineExceeded(UpstreamError):
    """The engine did not answer in time."""

    reason = "timeout"


class EngineStreamError(UpstreamError):
    """The engine sent an error object in a stream before any content."""

    reason = "stream_error"

    def __init__(self, error: bytes) -> None:
        """`error` is the object's JSON text."""
        super().__init__(error.decode("utf-8", "replace"))
        self.error = error


class Receiver(Protocol):
    """Who gets a reply's parts, in this order: head, then chunks or payloads, then complete or failed."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status and headers, names in lower case."""

    def on_chunk(self, wire: bytes, start: int) -> None:
        """One whole chunk as it stood on the wire; its payload is `wire[start:-2]`."""

    def on_payload(self, payload: bytes) -> None:
        """A piece of the body without framing."""

    def on_complete(self) -> None:
        """The reply is whole."""

    def on_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """All of it came at once: head, one payload unless that is empty, complete. The connection is free again."""

    def on_failed(self, error: UpstreamError) -> None:
        """There will be no more."""


class InParts:
    """A receiver to which it is all one whether a reply came at once."""

    __slots__ = ()

    def on_whole(self: Receiver, status: int, headers: Headers, body: bytes) -> None:
        """See `Receiver`."""
        self.on_head(status, headers)
        if body:
            self.on_payload(body)
        self.on_complete()
