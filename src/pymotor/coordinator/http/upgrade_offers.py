"""Requests that offer to switch protocols, which this server never does (RFC 9110, section 7.8)."""

from __future__ import annotations

from pymotor.coordinator.http.client_request import ClientRequest

_FIELDS = frozenset((b"upgrade", b"http2-settings"))
_CONNECTION_OPTIONS = frozenset((b"upgrade", b"http2-settings"))


def head_without_offer(request: ClientRequest, url: bytes, repeated: bytes) -> bytes:
    """The head of this request, for `url`, as it would be without the offer. `repeated`: the name of a header that was
    repeated though it must not be, which it still is in the result; empty: none."""
    headers = {name: value for name, value in request.headers.items() if name not in _FIELDS}
    options = [option.strip() for option in headers.pop(b"connection", b"").split(b",")]
    kept = [option for option in options if option and option.lower() not in _CONNECTION_OPTIONS]
    if kept:
        headers[b"connection"] = b", ".join(kept)
    lines = [b"%b %b HTTP/1.%d" % (request.method, url, request.http_11)]
    if repeated:
        lines.append(b"%b: %b" % (repeated, headers.get(repeated, b"")))
    lines += [b"%b: %b" % header for header in headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"
