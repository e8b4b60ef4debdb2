"""What a request's head may say of its version and of what it asks for."""

from __future__ import annotations

from pymotor.coordinator.http.client_request import Refused


def check_old(version: str, headers: dict[bytes, bytes]) -> None:
    """Raises `Refused` for a version that is not HTTP/1.0, or a field that it does not know."""
    if version != "1.0":
        raise Refused(400, "this server speaks HTTP/1.1 and HTTP/1.0")
    if b"transfer-encoding" in headers:
        raise Refused(400, "an HTTP/1.0 request cannot have a Transfer-Encoding")


def origin_form(target: bytes) -> bytes:
    """The path of a request target in absolute form, which servers have to accept (RFC 9112, section 3.2.2)."""
    _, scheme, rest = target.partition(b"://")
    _, _, path = rest.partition(b"/")
    return b"/" + path if scheme else target
