"""Response heads toward clients, built from blocks that are ready before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.settings import CorsSettings

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_REQUEST_ID_LIMIT = 256
_LEGS_TOLD = 32
"""At each end."""

JSON = b"application/json"


def status_line(status: int) -> bytes:
    """The first line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


class ResponseHeads:
    """Makes response heads under a worker's settings."""

    __slots__ = ("_cors", "_server_timing")

    def __init__(self, *, server_timing: bool, cors: CorsSettings) -> None:
        self._server_timing = server_timing
        self._cors = cors

    def whole(
        self,
        request: ClientRequest,
        status: int,
        content_type: bytes,
        length: int,
        legs: Sequence[tuple[str, str, float]] = (),
        extra: bytes = b"",
    ) -> bytes:
        """Head of a response with a body of `length` bytes; `extra` are whole header lines."""
        return b"%bContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n" % (
            status_line(status),
            content_type,
            length,
            extra,
            self._common(request, legs),
        )

    def stream(self, request: ClientRequest, content_type: bytes, legs: Sequence[tuple[str, str, float]]) -> bytes:
        """Head of a chunked response with status 200; for HTTP/1.0, which has no chunks, of one that ends with the
        connection."""
        framing = b"Transfer-Encoding: chunked\r\n"
        if not request.http_11:
            framing = b""
            request.keep_alive = False
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nCache-Control: no-cache\r\n%b%b\r\n" % (
            content_type,
            framing,
            self._common(request, legs),
        )

    def preflight(self, request: ClientRequest) -> bytes | None:
        """Response to a CORS preflight from a page that may call, or None."""
        origin = self._allowed_origin(request)
        if origin is None or request.headers.get(b"access-control-request-method") is None:
            return None
        cors = self._cors
        headers = ", ".join(cors.allow_headers).encode()
        if "*" in cors.allow_headers:
            headers = _clean(request.headers.get(b"access-control-request-headers") or b"*")
        return (
            b"HTTP/1.1 204 No Content\r\n"
            + b"Access-Control-Allow-Methods: %b\r\n" % ", ".join(cors.allow_methods).encode()
            + b"Access-Control-Allow-Headers: %b\r\n" % headers
            + b"Access-Control-Max-Age: %d\r\n" % cors.max_age
            + self._common(request, ())
            + b"\r\n"
        )

    def _common(self, request: ClientRequest, legs: Sequence[tuple[str, str, float]]) -> bytes:
        lines = b""
        request_id = request.headers.get(b"x-request-id")
        if request_id is not None:
            lines = b"X-Request-Id: %b\r\n" % _clean(request_id[:_REQUEST_ID_LIMIT])
        if self._server_timing and legs:
            # The first and the last ones: a head has to stay small, however many items were encoded.
            told = legs if len(legs) <= 2 * _LEGS_TOLD else [*legs[:_LEGS_TOLD], *legs[-_LEGS_TOLD:]]
            entries = ", ".join([f'{leg};desc="{instance}";dur={taken:.1f}' for leg, instance, taken in told])
            lines += b"Server-Timing: %b\r\n" % entries.encode()
        if not request.keep_alive:
            lines += b"Connection: close\r\n"
        elif not request.http_11:
            lines += b"Connection: keep-alive\r\n"
        if self._cors.allow_origins:
            lines += self._cors_lines(request)
        return lines

    def _cors_lines(self, request: ClientRequest) -> bytes:
        origin = self._allowed_origin(request)
        if origin is None:
            return b"Vary: Origin\r\n"
        lines = b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n" % origin
        lines += b"Access-Control-Expose-Headers: X-Request-Id, Server-Timing, Retry-After\r\n"
        if self._cors.allow_credentials:
            lines += b"Access-Control-Allow-Credentials: true\r\n"
        return lines

    def _allowed_origin(self, request: ClientRequest) -> bytes | None:
        origin = request.headers.get(b"origin")
        if origin is None or not self._cors.allow_origins:
            return None
        if "*" in self._cors.allow_origins:
            return _clean(origin) if self._cors.allow_credentials else b"*"
        return _clean(origin) if origin.decode("latin-1") in self._cors.allow_origins else None


def _clean(value: bytes) -> bytes:
    """A header value that cannot end its line."""
    return value.replace(b"\r", b"").replace(b"\n", b"")
