"""A plane's files, loaded into contexts of OpenSSL, and what is wrong with them in words that say what to do."""

from __future__ import annotations

import contextlib
import re
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from pymotor.control_plane.pem import why_no_pem

_LARGEST = 1 << 20
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


def load_authority(context: ssl.SSLContext, files: TLSFiles) -> None:
    """Have the context believe who `ca_file` vouches for and `crl_file` does not name. Raises `TLSError`."""
    _check_readable("ca_file", files.ca_file)
    try:
        context.load_verify_locations(files.ca_file)
    except (OSError, ValueError) as error:
        raise TLSError(f"ca_file {files.ca_file} holds no certificate of an authority: {in_words(error)}") from error
    if not files.crl_file:
        return
    _check_readable("crl_file", files.crl_file)
    try:
        context.load_verify_locations(files.crl_file)
    except (OSError, ValueError) as error:
        raise TLSError(f"crl_file {files.crl_file} holds no list of revoked certificates: {in_words(error)}") from error
    if not context.cert_store_stats()["crl"]:
        raise TLSError(f'crl_file {files.crl_file} holds no list of revoked certificates; name one, or write ""')
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def load_own(context: ssl.SSLContext, files: TLSFiles) -> None:
    """Have the context show `cert_file`. Raises `TLSError`."""
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
            f"its password: {in_words(error)}"
        ) from error
    _check_in_use(files, password)


def check_vouched_for(files: TLSFiles) -> None:
    """Refuse a certificate that the authority of `ca_file` does not vouch for: where all of a plane have the same
    files, nobody would believe anybody. They have been loaded before. Raises `TLSError`."""
    try:
        _meet_itself(files, _password(files))
    except ssl.SSLCertVerificationError as error:
        raise TLSError(
            f"cert_file {files.cert_file} is not vouched for by the authority of ca_file {files.ca_file}: "
            f"{error.verify_message}; name the certificate that this authority signed"
        ) from error
    except (OSError, ValueError) as error:
        raise TLSError(f"the files of {files.cert_file} change while they are read: {in_words(error)}") from error


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
    try:
        _meet_itself(files, password)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OUT_OF_USE:
            raise TLSError(f"cert_file {files.cert_file} {_OUT_OF_USE[error.verify_code]}") from error
        if error.verify_code in _LIST_OUT_OF_USE:
            raise TLSError(f"crl_file {files.crl_file} {_LIST_OUT_OF_USE[error.verify_code]}") from error
    except ssl.SSLError as error:
        raise TLSError(f"cert_file {files.cert_file} cannot be used: {in_words(error)}") from error


def _meet_itself(files: TLSFiles, password: bytes) -> None:
    """A peer with the same files looks at the certificate. Raises `ssl.SSLError`."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    server.load_cert_chain(files.cert_file, files.key_file, password=password)
    try:
        client.load_verify_locations(files.ca_file)
        if files.crl_file:
            client.load_verify_locations(files.crl_file)
            client.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError):
        return  # told by `load_authority` where the authority matters
    _greet(server, client)


def _greet(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """A handshake in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(_GREETINGS):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


def in_words(error: Exception) -> str:
    """What OpenSSL or the system says, without numbers of source lines."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return _SOURCE_LINE.sub("", str(getattr(error, "strerror", None) or error))
