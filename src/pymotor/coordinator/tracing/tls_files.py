"""The files by which a collector is trusted and told who speaks, as variables of the environment name them."""

from __future__ import annotations

import os
import ssl

import httpx

from pymotor.coordinator.tracing.collector_settings import CollectorSettings, NamedFile

_MACHINES_FILE = "SSL_CERT_FILE"


class UnusableFile(Exception):
    """A certificate or key cannot be used."""

    def __init__(self, file: NamedFile, error: OSError) -> None:
        """`file`: with an empty path where that is not known."""
        why = str(error) or type(error).__name__
        super().__init__(f"{' '.join(filter(None, file))}: {why}")
        self.file = file
        self.why = why


def tls_context(settings: CollectorSettings) -> ssl.SSLContext:
    """Whom to trust and what to show, read from the files now. Raises `UnusableFile`."""
    if not settings.url.startswith("https:"):
        # Reading all authorities costs more than everything else here; this one trusts nobody.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted, shown, key = settings.certificate, settings.client_certificate, settings.client_key
    try:
        context = ssl.create_default_context(cafile=trusted.path) if trusted.path else httpx.create_ssl_context()
    except OSError as error:
        machines = NamedFile(_MACHINES_FILE, os.environ.get(_MACHINES_FILE, ""))
        raise UnusableFile(trusted if trusted.path else machines, error) from error
    if shown.path:
        try:
            # A key with a password would ask for it at the terminal.
            context.load_cert_chain(shown.path, key.path or None, password="")
        except OSError as error:
            raise UnusableFile(key if key.path and _has_certificate(shown.path) else shown, error) from error
    return context


def _has_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:
        return False
    return True
