"""Who may use the operators' paths: those who know the token, or, where there is none, clients on this machine."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from pymotor.control_plane.nearness import on_this_machine
from pymotor.coordinator.control import OperatorRequest

TOKEN_VARIABLE = "PYMOTOR_PROXY_TOKEN"  # noqa: S105 - the variable's name
_FROM_ELSEWHERE = ("forwarded", "x-forwarded-for", "x-real-ip", "via", "origin", "sec-fetch-site")
"""Headers of a proxy in front, behind which every client seems near, and of browsers, which any page can steer."""


class AccessError(ValueError):
    """The token cannot be had; the message says why, without the token."""


class Refused(Exception):
    """The client may not do this."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Access:
    """Checks requests."""

    def __init__(self, token: str = "") -> None:
        """Without a token only clients on this machine are let in."""
        self._token = token.encode()

    @classmethod
    def load(cls, environment: Mapping[str, str], file: Path | None) -> Access:
        """With the token of the environment or else of the file, if there is one. Raises `AccessError`."""
        token = environment.get(TOKEN_VARIABLE, "")
        if not token and file is not None:
            try:
                token = file.read_text().strip()
            except (OSError, UnicodeError) as error:
                raise AccessError(f"--token-file {file} cannot be read: {error}") from error
            if not token:
                raise AccessError(f"--token-file {file} is empty")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise AccessError("the token must be printable ASCII without spaces")
        return cls(token)

    def accepts(self, authorization: str | None) -> bool:
        """Whether the value of an `Authorization` header shows the token; never where there is none."""
        scheme, _, shown = (authorization or "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode("latin-1", "replace"), self._token)
        return bool(self._token) and right and scheme.lower() == "bearer"

    def check(self, request: OperatorRequest) -> None:
        """Raise `Refused` unless the client may."""
        if not self._token:
            if not _is_near(request):
                raise Refused(
                    403,
                    f"this path is for clients on the proxy's own machine; to use it from elsewhere start the proxy"
                    f" with {TOKEN_VARIABLE} or --token-file and send 'Authorization: Bearer TOKEN'",
                )
            return
        if not self.accepts(request.headers.get("authorization")):
            raise Refused(401, "this path needs 'Authorization: Bearer TOKEN' with the proxy's token")


def _is_near(request: OperatorRequest) -> bool:
    if any(name in request.headers for name in _FROM_ELSEWHERE):
        return False
    return on_this_machine(request.peer, request.reached_at)
