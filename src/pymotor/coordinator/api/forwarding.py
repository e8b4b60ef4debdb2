"""Which headers of a client's request engines get too.

Engines act on some headers, so none is passed on unless it is named here or in `http_config.forward_headers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FORWARDED_HEADERS = (
    "traceparent",
    "tracestate",
    "X-Session-ID",
    "X-Vllm-Priority",
    "anthropic-version",
    "anthropic-beta",
)
"""Traces (W3C Trace Context), vLLM's session and priority, Anthropic's version and features."""

BARRED_HEADERS = frozenset((
    # The gateway's own: which request, which engine rank, which body.
    "host", "x-request-id", "x-data-parallel-rank", "content-length", "content-type", "content-encoding", "expect",
    # Between two neighbours only (RFC 9110, section 7.6.1).
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "http2-settings",
    # Secrets between the client and the gateway; `forward_authorization` passes the first on.
    "authorization", "x-api-key", "cookie", "accept-encoding",
))  # fmt: skip
"""Never forwarded, whatever a configuration says."""

_TRACE_HEADERS = frozenset(("traceparent", "tracestate"))
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_ENDS_A_LINE = (b"\r", b"\n", b"\0")


def is_forwardable(name: str) -> bool:
    """Whether a configuration may name this header: it is one, and not barred."""
    lower = name.lower()
    return bool(lower) and _TOKEN.issuperset(lower) and lower not in BARRED_HEADERS and not lower.startswith("content-")


class Forwarding:
    """Picks the header lines that every leg of a request carries."""

    __slots__ = ("_fixed", "_lines", "_names")

    def __init__(
        self, more: Iterable[str] = (), *, authorization: bool = False, engine_key: str = "", traces: bool = True
    ) -> None:
        """`more` names headers beside `FORWARDED_HEADERS`. `authorization`: the client's `Authorization` too, unless
        `engine_key` is what engines are started with (`--api-key`). `traces`: the client's trace as it is; not where
        the gateway has a part in it. Raises `ValueError` for a key that is no header
        value; it is not in the message."""
        names = [*FORWARDED_HEADERS, *filter(is_forwardable, more)]
        if not traces:
            names = [name for name in names if name.lower() not in _TRACE_HEADERS]
        if authorization and not engine_key:
            names.append("Authorization")
        self._lines = {name.lower().encode(): name.encode() for name in names}
        self._names = frozenset(self._lines)
        if not (engine_key.isascii() and engine_key.isprintable()):
            raise ValueError("the engines' key has characters that cannot stand in a header")
        self._fixed = f"Authorization: Bearer {engine_key}\r\n".encode() if engine_key else b""

    def lines(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The lines, each with its end, for a request with these headers (names in lower case); often empty."""
        if self._names.isdisjoint(headers):
            return self._fixed
        lines = self._fixed
        for name, written in self._lines.items():
            value = headers.get(name)
            if value is not None and not any(end in value for end in _ENDS_A_LINE):
                lines += b"%b: %b\r\n" % (written, value)
        return lines
