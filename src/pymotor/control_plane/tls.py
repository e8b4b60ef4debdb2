"""TLS of a door and of what we dial: contexts made of files, and made anew when the files change.

TLS 1.3 alone (RFC 8446). A name is looked up among the subject alternative names (RFC 6125), never in the common name.
Whoever owns one of these asks `renewed` from time to time and gives `context` to each new connection: connections that
are open live on with the one they began with.
"""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
import stat
from dataclasses import astuple, dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Protocol

from pymotor.control_plane.pem import why_no_pem

logger = logging.getLogger(__name__)

_LARGEST = 1 << 20
_AGAIN_SECONDS = 30.0
"""After which files that were refused are tried once more."""
_SOURCE_LINE = re.compile(r" *\(_ssl\.c:\d+\)")
_OTHERS = stat.S_IRWXO
_GREETINGS = 4
_OUT_OF_USE = {
    9: "is not valid yet; check this machine's clock, or make one that is valid now",
    10: "has expired; make a new one",
    23: "is on the list of revoked certificates; make a new one",
}
"""OpenSSL's codes (X509_V_ERR_…) for a certificate of ours that no peer takes."""
_LIST_OUT_OF_USE = {
    3: "is of another authority than the one of ca_file, so that no peer would be believed; name the right list",
    11: "is not valid yet; check this machine's clock",
    12: "has expired, so that no peer would be believed; publish a new one",
}
"""The same for a list of revoked certificates."""

Signature = tuple[tuple[int, ...] | None, ...]


class TLSError(Exception):
    """Certificates cannot be used; the message names the key of `tls_config`, the file and what to do."""


class ForbiddenFileError(TLSError):
    """This user may not read a file, while another may."""


@dataclass(frozen=True)
class TLSFiles:
    """Absolute paths; "" where there is none."""

    ca_file: str
    cert_file: str
    key_file: str
    passwd_file: str = ""
    crl_file: str = ""


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
        _load_own(context, files)
        if self._mutual:
            _load_authority(context, files)
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
                f"the files of {self._files.cert_file} change while they are read: {_words(error)}"
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
    _load_authority(context, files)
    if files.cert_file:
        _load_own(context, files)
    return context


def _load_authority(context: ssl.SSLContext, files: TLSFiles) -> None:
    """Raises `TLSError`."""
    _check_readable("ca_file", files.ca_file)
    try:
        context.load_verify_locations(files.ca_file)
    except (OSError, ValueError) as error:
        raise TLSError(f"ca_file {files.ca_file} holds no certificate of an authority: {_words(error)}") from error
    if not files.crl_file:
        return
    _check_readable("crl_file", files.crl_file)
    try:
        context.load_verify_locations(files.crl_file)
    except (OSError, ValueError) as error:
        raise TLSError(f"crl_file {files.crl_file} holds no list of revoked certificates: {_words(error)}") from error
    if not context.cert_store_stats()["crl"]:
        raise TLSError(f'crl_file {files.crl_file} holds no list of revoked certificates; name one, or write ""')
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _load_own(context: ssl.SSLContext, files: TLSFiles) -> None:
    """Raises `TLSError`."""
    _check_readable("cert_file", files.cert_file)
    _check_readable("key_file", files.key_file, secret=True)
    password = _password(files)

    def answer() -> bytes:
        # Asked only for an encrypted key. Without an answer OpenSSL would ask at the terminal.
        if not password:
            raise TLSError(f"key_file {files.key_file} has a password; write it into a file and name that passwd_file")
        return password

    try:
        context.load_cert_chain(files.cert_file, files.key_file, password=answer)
    except (OSError, ValueError) as error:
        no_pem = why_no_pem(files.cert_file, files.key_file)
        if no_pem:
            raise TLSError(no_pem) from error
        raise TLSError(
            f"key_file {files.key_file} is not the key of cert_file {files.cert_file}, or passwd_file does not hold "
            f"its password: {_words(error)}"
        ) from error
    _check_in_use(files, password)


def _password(files: TLSFiles) -> bytes:
    """Raises `TLSError`. That the file is missing shows only where the key wants a password: a path is named by
    default."""
    if not files.passwd_file or _is_missing(Path(files.passwd_file)):
        return b""
    _check_readable("passwd_file", files.passwd_file, secret=True)
    return Path(files.passwd_file).read_bytes().strip()


def _is_missing(path: Path) -> bool:
    """Not so where it cannot be known: trying to read it tells why."""
    try:
        return not path.exists()
    except (OSError, ValueError):
        return False


def _check_readable(key: str, path: str, *, secret: bool = False) -> None:
    """Raises `TLSError`, and `ForbiddenFileError`; a `secret` must not be open to everybody on the machine."""
    if not path:
        raise TLSError(f"{key} names no file; name one, or set enable_tls to false")
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise TLSError(f"{key} {path} is no file of the size of a certificate; name the right file")
        with Path(path).open("rb"):
            pass
    except PermissionError as error:
        raise ForbiddenFileError(
            f"{key} {path} cannot be read: {error.strerror}; check the path and who may read it"
        ) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TLSError(f"{key} {path} cannot be read: {why}; check the path and who may read it") from error
    if secret and status.st_mode & _OTHERS:
        raise TLSError(f"{key} {path} is open to every user of this machine; close it: chmod o= {path}")


def _check_in_use(files: TLSFiles, password: bytes) -> None:
    """Refuse what no peer would take: expired, not valid yet, revoked. A certificate of another authority than that of
    `ca_file` passes, since its peers may know that one. Raises `TLSError`."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    server.load_cert_chain(files.cert_file, files.key_file, password=password)
    try:
        client.load_verify_locations(files.ca_file)
        if files.crl_file:
            client.load_verify_locations(files.crl_file)
            client.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError):
        return  # told by `_load_authority` where the authority matters
    try:
        _greet(server, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OUT_OF_USE:
            raise TLSError(f"cert_file {files.cert_file} {_OUT_OF_USE[error.verify_code]}") from error
        if error.verify_code in _LIST_OUT_OF_USE:
            raise TLSError(f"crl_file {files.crl_file} {_LIST_OUT_OF_USE[error.verify_code]}") from error
    except ssl.SSLError as error:
        raise TLSError(f"cert_file {files.cert_file} cannot be used: {_words(error)}") from error


def _greet(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """A handshake in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(_GREETINGS):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


def _words(error: Exception) -> str:
    """What OpenSSL or the system says, without numbers of source lines."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return _SOURCE_LINE.sub("", str(getattr(error, "strerror", None) or error))
