"""Whether who asks has shown a certificate that the authority of the plane vouches for."""

from __future__ import annotations

from starlette.types import Scope

STATE_KEY = "pymotor.client_certificate"
"""Of an ASGI scope's `state`: whether the connection has one."""

_SITE = b"sec-fetch-site"
_OWN = (b"none", b"same-origin")
PASSED_ON = b"x-pymotor-passed-on"
"""Header of a request that another part passes on, which shows its own certificate then and not the client's."""
PASSED_ON_FOR_STRANGER, PASSED_ON_FOR_KNOWN = b"1", b"certificate"
"""Its values: whether the client had shown a certificate to that part."""


def shows_certificate(scope: Scope) -> bool:
    """Whether the client itself has. Who shows a certificate of its own is believed what it says of another. A browser
    that a page of another site steers shows its owner's certificate, which does not count."""
    if not scope.get("state", {}).get(STATE_KEY, False) or asked_by_another_site(scope):
        return False
    passed_on = next((value for name, value in scope["headers"] if name == PASSED_ON), PASSED_ON_FOR_KNOWN)
    return bool(passed_on == PASSED_ON_FOR_KNOWN)


def asked_by_another_site(scope: Scope) -> bool:
    """Whether a browser says that a page of another site makes it ask (Fetch Metadata)."""
    return any(name == _SITE and value not in _OWN for name, value in scope["headers"])
