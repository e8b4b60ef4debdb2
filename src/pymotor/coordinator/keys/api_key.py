"""What is known of one API key, and how the keys that PyMotor makes look: `sk-pm-<id>-<secret>`."""

from __future__ import annotations

import re
import secrets
from enum import Enum

import msgspec

_PREFIX = "sk-pm-"
_FORM = re.compile(rb"sk-pm-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
LONGEST_KEY = 512
"""Bytes of a key, which are printable ASCII; any other text is none."""


class Scope(str, Enum):
    """What a key is good for."""

    INFERENCE = "inference"
    """Requests of clients."""
    READ = "read"
    """GET at the management and observability ports, and which models there are."""
    ADMIN = "admin"
    """Everything at these ports."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the Coordinator's processes tell each other; the key itself nobody knows."""

    id: str
    name: str
    """What metrics call it."""
    hash: str
    scopes: frozenset[Scope]
    expires_at: float | None = None
    """Seconds since 1970; None: never."""
    configured: bool = False
    """Whether it is one of `valid_keys`, which do not tell their id."""
    place: int = 0
    """Its place among the limits, the same in every process."""
    max_requests: int | None = None
    """In a window; None: what the configuration says for every key."""
    max_tokens: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it is good for this; who may change things may see them."""
        return scope in self.scopes or (scope is Scope.READ and Scope.ADMIN in self.scopes)

    def __repr__(self) -> str:
        return f"ApiKey({self.id}, {self.name!r})"


def new_key() -> tuple[str, str]:
    """An id and a key with it; 256 bits of the key are random."""
    key_id = secrets.token_hex(6)
    return key_id, f"{_PREFIX}{key_id}-{secrets.token_urlsafe(32)}"


def id_in(shown: bytes) -> str:
    """The id in a key of PyMotor's own form; empty in any other text."""
    match = _FORM.fullmatch(shown)
    return match[1].decode() if match is not None else ""
