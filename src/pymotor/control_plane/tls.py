"""TLS of a door and of what we dial: contexts made of files, and made anew when the files change.

TLS 1.3 alone (RFC 8446). A name is looked up among the subject alternative names (RFC 6125), never in the common name.
Whoever owns one of these asks `renewed` from time to time and gives `context` to each new connection: connections that
are open live on with the one they began with.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import astuple
from math import inf
from pathlib import Path
from time import monotonic
from typing import Protocol

from pymotor.control_plane.certificate_files import (
    ForbiddenFileError,
    TLSError,
    TLSFiles,
    in_words,
    load_authority,
    load_own,
)

__all__ = ["ClientTLS", "ForbiddenFileError", "ServerTLS", "TLSError", "TLSFiles", "TLSKeys", "tls_files"]

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 30.0
"""After which files that were refused are tried once more."""
Signature = tuple[tuple[int, ...] | None, ...]


class TLSKeys(Protocol):
    """A plane's keys of `tls_config`."""

    @property
    def enable_tls(self) -> bool:
        """Whether the plane speaks TLS."""

    @property
    def ca_file(self) -> str:
        """Who signs the peers."""

    @property
    def cert_file(self) -> str:
        """What is shown to peers."""

    @property
    def key_file(self) -> str:
        """Its private key."""

    @property
    def passwd_file(self) -> str:
        """The key's password."""

    @property
    def crl_file(self) -> str:
        """Revoked certificates."""


def tls_files(block: TLSKeys, directory: Path) -> TLSFiles | None:
    """A plane's files, relative names under `directory` (that of user_config.json); None where TLS is off."""
    if not block.enable_tls:
        return None
    named = (block.ca_file, block.cert_file, block.key_file, block.passwd_file, block.crl_file)
    return TLSFiles(*(str(directory.absolute() / name) if name else "" for name in named))


class ServerTLS:
    """The certificates of one listening door."""

    def __init__(self, files: TLSFiles, *, mutual: bool, insist: bool = True) -> None:
        """`mutual`: clients show a certificate that `ca_file` signed; without `insist` they may show none.

        Raises `TLSError`.
        """
        self._mutual = mutual
        self._insist = insist
        self._kept = _Kept(files)
        self._context = self._kept.make(self._made)

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context

    def renewed(self) -> bool:
        """Look whether a file has changed: then `context` is a new one. A set that does not fit changes nothing and
        is told once in the log."""
        context = self._kept.make_if_changed(self._made)
        if context is not None:
            self._context = context
        return context is not None

    def _made(self, files: TLSFiles) -> ssl.SSLContext:
        context = _strict(ssl.PROTOCOL_TLS_SERVER)
        load_own(context, files)
        if self._mutual:
            load_authority(context, files)
            context.verify_mode = ssl.CERT_REQUIRED if self._insist else ssl.CERT_OPTIONAL
        return context


class ClientTLS:
    """The certificates of connections that we open: the peer's is checked, its name too, and ours is shown."""

    def __init__(self, files: TLSFiles, *, peer_name: str = "") -> None:
        """Where `cert_file` is "", none is shown. `peer_name`: what peers' certificates must name instead of the host
        that is dialled. Raises `TLSError`."""
        self.files = files
        self.peer_name = peer_name
        self._kept = _Kept(files)
        self._context = self._kept.make(_client)

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context

    def renewed(self) -> bool:
        """See `ServerTLS.renewed`."""
        context = self._kept.make_if_changed(_client)
        if context is not None:
            self._context = context
        return context is not None


class _Maker(Protocol):
    def __call__(self, files: TLSFiles, /) -> ssl.SSLContext:
        """A context. Raises `TLSError`."""


class _Kept:
    """Files, and how they looked when they were read last."""

    def __init__(self, files: TLSFiles) -> None:
        self._files = files
        self._seen: Signature = ()
        self._again_at = inf
        self._told = ""

    def make(self, maker: _Maker) -> ssl.SSLContext:
        """Raises `TLSError`."""
        self._seen = _signature(self._files)
        try:
            return maker(self._files)
        except (OSError, ValueError) as error:
            raise TLSError(
                f"the files of {self._files.cert_file} change while they are read: {in_words(error)}"
            ) from error

    def make_if_changed(self, maker: _Maker) -> ssl.SSLContext | None:
        if _signature(self._files) == self._seen and monotonic() < self._again_at:
            return None
        try:
            context = self.make(maker)
        except TLSError as error:
            # What was refused may be good later without a change: "not valid yet" by a clock that runs ahead.
            self._again_at = monotonic() + _AGAIN_SECONDS
            if str(error) != self._told:
                self._told = str(error)
                logger.error("new certificates are not taken, the last ones stand: %s", error)
            return None
        self._again_at, self._told = inf, ""
        logger.info("certificates are renewed from %s", self._files.cert_file or self._files.ca_file)
        return context


def _signature(files: TLSFiles) -> Signature:
    """How the files look now, taken before they are read, so that a change in between is seen next time."""
    found: list[tuple[int, ...] | None] = []
    for path in astuple(files):
        try:
            status = Path(path).stat() if path else None
        except (OSError, ValueError):
            status = None
        found.append(status and (status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _strict(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


def _client(files: TLSFiles) -> ssl.SSLContext:
    """It checks host names: the default of its kind. Raises `TLSError`."""
    context = _strict(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    load_authority(context, files)
    if files.cert_file:
        load_own(context, files)
    return context
