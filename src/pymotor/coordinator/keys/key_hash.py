"""Keys as they are stored: `salt:iterations:hash`, PBKDF2 with HMAC-SHA-256 (RFC 8018, section 5.2).

The salt is text and counts as its UTF-8 bytes; the hash is 32 bytes in hexadecimal. Older PyMotor writes `valid_keys`
in the same form.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

ITERATIONS = 100_000
"""Of new hashes: about 30 ms."""
MOST_ITERATIONS = 10_000_000
"""More would keep a processor for seconds with each text that is shown."""
_FORM = re.compile(r"([^:\s]{1,256}):([1-9][0-9]{0,8}):([0-9a-fA-F]{64})")


class KeyHashError(ValueError):
    """A text is no hash of a key; the message does not show it."""


class KeyHash:
    """One stored hash, ready to be compared with."""

    __slots__ = ("_hash", "_iterations", "_salt")

    def __init__(self, stored: str) -> None:
        """Raises `KeyHashError`."""
        match = _FORM.fullmatch(stored)
        if match is None or int(match[2]) > MOST_ITERATIONS:
            raise KeyHashError(
                f"a stored key is salt:iterations:hash, with at most {MOST_ITERATIONS} iterations and a hash of 64"
                " hexadecimal digits; `pymotor api-key create` makes one"
            )
        self._salt = match[1].encode()
        self._iterations = int(match[2])
        self._hash = bytes.fromhex(match[3])

    def fits(self, shown: bytes) -> bool:
        """Whether it is that of the key `shown`; slow on purpose, compared in constant time. Lets other threads run."""
        return hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", shown, self._salt, self._iterations), self._hash)

    def __repr__(self) -> str:
        return "KeyHash(…)"


def hash_of(key: str, iterations: int = ITERATIONS) -> str:
    """A new hash of a key, with a salt of its own."""
    salt = secrets.token_hex(16)
    return f"{salt}:{iterations}:{hashlib.pbkdf2_hmac('sha256', key.encode(), salt.encode(), iterations).hex()}"
