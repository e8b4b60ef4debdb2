"""Authorities, certificates and lists of revoked ones for tests, made by the openssl command in a test's directory.

Curves instead of RSA: keys are made in no time.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

OPENSSL = shutil.which("openssl")
"""None on machines without it: tests skip there."""

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
_SETTINGS = """
[ca]
default_ca = this
[this]
dir = {directory}
database = $dir/index.txt
new_certs_dir = $dir/issued
serial = $dir/serial
crlnumber = $dir/crlnumber
certificate = $dir/ca.crt
private_key = $dir/ca.key
default_md = sha256
default_crl_days = 2
policy = anything
unique_subject = no
copy_extensions = none
[anything]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Who signs; `directory` has its database."""

    directory: Path
    ca_file: Path


@dataclass(frozen=True)
class Certificate:
    """What a server or client shows, and its key, which only this user may read."""

    cert_file: Path
    key_file: Path


def make_ca(directory: Path, name: str = "test authority") -> Authority:
    """A new authority in `directory`, which is made."""
    (directory / "issued").mkdir(parents=True)
    (directory / "index.txt").touch()
    (directory / "openssl.cnf").write_text(_SETTINGS.format(directory=directory))
    for counter in ("serial", "crlnumber"):
        (directory / counter).write_text("1000\n")
    words = ["req", "-x509", *_CURVE, "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2"]
    _openssl(directory, *words, "-subj", f"/CN={name}", "-extensions", "authority", "-config", "openssl.cnf")
    return Authority(directory, directory / "ca.crt")


def make_certificate(
    authority: Authority,
    directory: Path,
    stem: str = "server",
    *,
    names: tuple[str, ...] = ("localhost",),
    ips: tuple[str, ...] = ("127.0.0.1", "::1"),
    expired: bool = False,
    not_yet: bool = False,
    password: str = "",
) -> Certificate:
    """`stem`.crt and `stem`.key in `directory` (files of these names are replaced), good for `names` and `ips`.

    With `password` the key is encrypted.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = ("-passout", f"pass:{password}") if password else ("-nodes",)
    key, request, made = directory / f"{stem}.key", directory / f"{stem}.csr", directory / f"{stem}.made"
    settings = ("-config", str(authority.directory / "openssl.cnf"))
    words = ["req", *_CURVE, *kept, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={stem}", *settings]
    _openssl(authority.directory, *words)
    key.chmod(0o600)
    now = datetime.now(timezone.utc)
    begins, ends = now - _DAY, now + _DAY
    if expired:
        begins, ends = now - 3 * _DAY, now - 2 * _DAY
    elif not_yet:
        begins, ends = now + _DAY, now + 2 * _DAY
    extensions = directory / f"{stem}.ext"
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{ip}" for ip in ips)])
    usage = "basicConstraints = CA:false\nextendedKeyUsage = serverAuth, clientAuth\n"
    extensions.write_text(usage + (f"subjectAltName = {alternatives}\n" if alternatives else ""))
    words = ["ca", "-batch", "-notext", *settings, "-in", str(request), "-out", str(made), "-extfile", str(extensions)]
    _openssl(authority.directory, *words, "-startdate", _written(begins), "-enddate", _written(ends))
    for path in (request, extensions):
        path.unlink()
    return Certificate(made.replace(directory / f"{stem}.crt"), key)


def make_self_signed(directory: Path, stem: str = "stranger") -> Certificate:
    """A certificate that vouches for itself."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificate(directory / f"{stem}.crt", directory / f"{stem}.key")
    words = ["req", "-x509", *_CURVE, "-nodes", "-keyout", str(made.key_file), "-out", str(made.cert_file)]
    _openssl(directory, *words, "-days", "2", "-subj", f"/CN={stem}", "-addext", "subjectAltName = DNS:localhost")
    made.key_file.chmod(0o600)
    return made


def make_crl(authority: Authority, path: Path, revoked: tuple[Certificate, ...] = ()) -> Path:
    """The authority's list at `path`, with those of `revoked` and all that were revoked before."""
    settings = ("-config", "openssl.cnf")
    for one in revoked:
        _openssl(authority.directory, "ca", *settings, "-revoke", str(one.cert_file))
    made = path.with_name(f"{path.name}.made")
    _openssl(authority.directory, "ca", *settings, "-gencrl", "-out", str(made))
    return made.replace(path)


def _written(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%SZ")


def _openssl(directory: Path, *words: str) -> None:
    done = subprocess.run([OPENSSL or "openssl", *words], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {words[0]}: {done.stderr}"
