"""Who is let in by a key: where it stands in a request, what it must be good for, and what others are told."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.keys.api_key import ApiKey, Scope
from pymotor.coordinator.keys.key_ring import KeyRing, TooManyUnknown, expired

ANTHROPIC_HEADER = b"x-api-key"
"""Where Anthropic's SDK has it."""


class Refusal(ApiError):
    """Somebody is not let in; `reason` is what metrics call it, `challenge` the value of `WWW-Authenticate`."""

    def __init__(self, status: int, reason: str, message: str, challenge: bytes = b"") -> None:
        super().__init__(status, message, code=reason)
        self.reason = reason
        self.challenge = challenge

    @property
    def header_lines(self) -> bytes:
        """The challenge as a line of a response's head (RFC 6750, section 3); nothing where there is none."""
        return b"WWW-Authenticate: %b\r\n" % self.challenge if self.challenge else b""


class KeyHeaders:
    """Finds the key in a request's headers."""

    __slots__ = ("_lower_prefix", "_name", "_prefix_size", "names", "places")

    def __init__(self, header_name: str = "Authorization", prefix: str = "Bearer ") -> None:
        self._name = header_name.lower().encode()
        self._lower_prefix = prefix.lower().encode()
        self._prefix_size = len(self._lower_prefix)
        self.names = frozenset((self._name, ANTHROPIC_HEADER))
        """In lower case; each may come once in a request."""
        self.places = f"'{header_name}: {prefix}KEY' or 'x-api-key: KEY'"
        """In words."""

    def key_in(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The key, without the prefix where that stands before it; empty where there is none. Raises `Refusal` (401)
        where two headers have different ones. Hot path."""
        shown = headers.get(self._name, b"")
        if shown[: self._prefix_size].lower() == self._lower_prefix:
            shown = shown[self._prefix_size :].strip()
        other = headers.get(ANTHROPIC_HEADER)
        if other is None:
            return shown
        if shown and not hmac.compare_digest(shown, other):
            raise Refusal(401, "ambiguous_api_key", "two headers show different API keys; send one", b"Bearer")
        return other


async def admitted(ring: KeyRing, shown: bytes, scope: Scope, places: str, *, otherwise: Scope | None = None) -> ApiKey:
    """The key that `shown` is, which is good for `scope` or `otherwise`. Raises `Refusal` (401, 403, 503), which
    does not show it."""
    key = ring.known(shown) or await found(ring, shown, places)
    admit(key, scope, otherwise)
    return key


async def found(ring: KeyRing, shown: bytes, places: str) -> ApiKey:
    """The key that `shown` is, which was not seen before. Raises `Refusal` (401, 503)."""
    if not shown:
        raise Refusal(401, "missing_api_key", f"there is no API key; send {places}", b"Bearer")
    try:
        key = await ring.find(shown)
    except TooManyUnknown:
        raise Refusal(503, "too_many_unknown_keys", "too many unknown API keys at once; try again") from None
    if key is None:
        raise Refusal(401, "invalid_api_key", "this API key is not known", b'Bearer error="invalid_token"')
    return key


def admit(key: ApiKey, scope: Scope, otherwise: Scope | None = None) -> None:
    """See that the key is good for `scope` or `otherwise`. Raises `Refusal` (401, 403). Hot path."""
    if key.expires_at is not None and expired(key):
        raise Refusal(401, "expired_api_key", "this API key has expired", b'Bearer error="invalid_token"')
    if not key.may(scope) and (otherwise is None or not key.may(otherwise)):
        challenge = b'Bearer error="insufficient_scope", scope="%b"' % scope.value.encode()
        raise Refusal(403, "insufficient_scope", f"this API key is not good for {scope.value}", challenge)
