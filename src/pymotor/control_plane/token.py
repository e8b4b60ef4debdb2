"""The token that the parts of one cluster show each other."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

TOKEN_VARIABLE = "PYMOTOR_CLUSTER_TOKEN"  # noqa: S105  the name of a variable
TOKEN_FILE_VARIABLE = "PYMOTOR_CLUSTER_TOKEN_FILE"  # noqa: S105
TOKEN_PLACE = f"{TOKEN_VARIABLE}, or the file that {TOKEN_FILE_VARIABLE} names"
"""Where a part finds the token, in words."""
LOCAL_TOKEN_FILE = "~/.local/state/pymotor/NAME/token"  # noqa: S105  the name of a file
"""Where that of a fleet of `pymotor up` is, as long as nobody says where such fleets are to be."""
_SHORTEST = 16
_SCHEME = "bearer "


class TokenError(ValueError):
    """There is no token, or one that cannot be used; the message says what to do."""


class ClusterToken:
    """A secret that is compared in constant time and never printed."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        """Raises `TokenError` for one that is too short or cannot stand in a header."""
        if len(secret) < _SHORTEST or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise TokenError(
                f"the cluster token needs at least {_SHORTEST} printable ASCII characters without spaces; "
                'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        self._secret = secret.encode()

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> ClusterToken | None:
        """The token of `PYMOTOR_CLUSTER_TOKEN`, else of the file that `PYMOTOR_CLUSTER_TOKEN_FILE` names; None where
        neither is set. Raises `TokenError` when it cannot be used."""
        secret = variables.get(TOKEN_VARIABLE, "")
        path = variables.get(TOKEN_FILE_VARIABLE, "")
        if not secret and path:
            try:
                secret = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise TokenError(f"{TOKEN_FILE_VARIABLE} names {path}, which cannot be read: {error}") from error
            if not secret:
                raise TokenError(f"{TOKEN_FILE_VARIABLE} names {path}, which is empty")
        return cls(secret) if secret else None

    @property
    def secret(self) -> str:
        """What is shown where there is no header to show it in."""
        return self._secret.decode()

    @property
    def header(self) -> dict[str, str]:
        """The header that shows it."""
        return {"Authorization": f"Bearer {self.secret}"}

    def accepts(self, authorization: str | None) -> bool:
        """Whether the value of an `Authorization` header shows this token; compared in constant time."""
        shown = authorization or ""
        if not shown.lower().startswith(_SCHEME):
            return False
        return self.is_shown(shown[len(_SCHEME) :].strip())

    def is_shown(self, secret: str) -> bool:
        """Whether this is the token; compared in constant time."""
        return hmac.compare_digest(secret.encode(), self._secret)

    def __repr__(self) -> str:
        return "ClusterToken(…)"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
