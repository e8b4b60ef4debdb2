"""Which file of a certificate and its key is no PEM at all: OpenSSL says of either that the two do not go together."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----(.+?)-----END (?:[A-Z]+ )?PRIVATE KEY-----", re.DOTALL)
_LINES = re.compile(rb"[A-Za-z0-9+/=\s]+")
_WRITTEN = "in PEM form, the text that begins with -----BEGIN"


def why_no_pem(cert_file: str, key_file: str) -> str:
    """What is wrong with one of the two files, and what to do; "" where each holds what its name says. Raises
    `OSError`."""
    if not _holds_certificate(cert_file):
        return f"cert_file {cert_file} holds no certificate {_WRITTEN} CERTIFICATE-----; name the right file"
    if not _holds_key(Path(key_file).read_bytes()):
        return f"key_file {key_file} holds no private key {_WRITTEN} PRIVATE KEY-----; name the right file"
    return ""


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _holds_key(text: bytes) -> bool:
    """Whether there is a block of a key. An old encrypted one has headers before what is encoded."""
    found = _KEY.search(text)
    return found is not None and (b"Proc-Type:" in found[1] or _LINES.fullmatch(found[1]) is not None)
