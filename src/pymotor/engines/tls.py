"""TLS of engines' HTTP servers: what they are started with, and how whoever watches them asks."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pymotor.config import UserConfig

_KEY_BYTES = 1 << 20
_ENCRYPTED = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


class KnownTLS(Protocol):
    """How whoever watches a server knows it."""

    @property
    def peer_name(self) -> str:
        """What its certificate names instead of its address."""

    def client(self) -> ssl.SSLContext:
        """For asking it. Raises `OSError` where the files do not fit."""


@dataclass(frozen=True)
class EngineTLS:
    """The files of `infer_tls_config`, absolute, as an engine on this machine reads them."""

    ca_file: str
    cert_file: str
    key_file: str
    peer_name: str = ""
    """What the certificate names instead of the engine's address."""

    def options(self) -> dict[str, Any]:
        """As `vllm serve` takes them: whoever connects shows a certificate of the same authority, and new files are
        taken up while it runs."""
        return {
            "ssl_keyfile": self.key_file,
            "ssl_certfile": self.cert_file,
            "ssl_ca_certs": self.ca_file,
            "ssl_cert_reqs": int(ssl.CERT_REQUIRED),
            "enable_ssl_refresh": True,
        }

    def problem(self) -> str:
        """Why no engine can serve with these files; empty where nothing is seen."""
        try:
            with Path(self.key_file).open("rb") as key:
                content = key.read(_KEY_BYTES)
        except OSError as error:
            return f"infer_tls_config: key_file {self.key_file} cannot be read: {error.strerror}"
        if any(mark in content for mark in _ENCRYPTED):
            return (
                f"infer_tls_config: key_file {self.key_file} has a password, and engines take keys without one only; "
                "name a key that is not encrypted, closed to other users"
            )
        return ""

    def client(self) -> ssl.SSLContext:
        """For asking such an engine. Raises `OSError` (`ssl.SSLError` is one) where the files do not fit."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.hostname_checks_common_name = False
        context.load_verify_locations(self.ca_file)
        # An empty password: without one OpenSSL would ask at the terminal.
        context.load_cert_chain(self.cert_file, self.key_file, password=b"")
        return context


def engine_tls(user: UserConfig, directory: Path) -> EngineTLS | None:
    """The engines' TLS; relative paths begin at `directory`, that of user_config.json. None: plain HTTP."""
    block = user.motor_deploy_config.tls_config.infer_tls_config
    if not block.enable_tls:
        return None
    place = directory.absolute()
    ca_file, cert_file, key_file = (str(place / name) for name in (block.ca_file, block.cert_file, block.key_file))
    return EngineTLS(ca_file, cert_file, key_file, block.peer_name)
