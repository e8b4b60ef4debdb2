"""Certificates on this machine: read for Secrets, and refused where they do not fit together."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pymotor.config import Problem, UserConfig
from pymotor.config.deploy import TLSBlock
from pymotor.deployer.tls import FILE_KEYS, block_of, enabled_planes, is_users_own

_TLS = "$.motor_deploy_config.tls_config"
_NEEDED = ("ca_file", "cert_file", "key_file")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class TLSFiles:
    """What was found."""

    contents: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By plane and key of the Secret."""
    problems: list[Problem] = field(default_factory=list)


def read_tls_files(user: UserConfig, file: str, directory: Path, *, dry_run: bool) -> TLSFiles:
    """The files of planes that speak TLS and name no Secret; relative paths begin at `directory`.

    With `dry_run` missing files are no error: the Secret may come from elsewhere.
    """
    found = TLSFiles()
    owners: dict[str, str] = {}
    for plane in enabled_planes(user):
        if is_users_own(user, plane):
            continue
        block = block_of(user, plane)
        problems = [*_missing(block, plane, file, directory, dry_run=dry_run)]
        if not problems:
            paths = {key: directory / getattr(block, key) for key in FILE_KEYS if getattr(block, key)}
            paths = {key: path for key, path in paths.items() if path.is_file()}
            if all(key in paths for key in _NEEDED):
                problems += _unfit(paths, plane, file)
                found.contents[plane] = {FILE_KEYS[key]: path.read_bytes() for key, path in paths.items()}
        found.problems.extend(problems)
        for key in FILE_KEYS:
            name: str = getattr(block, key)
            other = owners.setdefault(name, plane) if name else plane
            theirs, ours = found.contents.get(other, {}), found.contents.get(plane, {})
            if other != plane and theirs.get(FILE_KEYS[key]) != ours.get(FILE_KEYS[key]):
                found.problems.append(
                    Problem.error(
                        file,
                        f"{_TLS}.{plane}.{key}",
                        f"{other} has another file of this name",
                        value=name,
                        suggestion="give each plane paths of its own",
                    )
                )
    return found


def _missing(block: TLSBlock, plane: str, file: str, directory: Path, *, dry_run: bool) -> list[Problem]:
    problems = []
    for key in (*_NEEDED, "crl_file"):
        name: str = getattr(block, key)
        path = f"{_TLS}.{plane}.{key}"
        if not name and key in _NEEDED:
            problems.append(
                Problem.error(file, path, "empty while enable_tls is true", value=name, suggestion="name the file")
            )
        elif name and ".." in Path(name).parts:
            problems.append(
                Problem.error(
                    file, path, "a path with .. may lead anywhere", value=name, suggestion="write it without .."
                )
            )
        elif name and not dry_run and not (directory / name).is_file():
            problems.append(
                Problem.error(
                    file,
                    path,
                    "this machine has no such file, so no Secret can be made of it",
                    value=name,
                    suggestion=f"put it there, or name a Secret in kubernetes_config.tls_secrets.{plane}",
                )
            )
    return problems


def _unfit(paths: Mapping[str, Path], plane: str, file: str) -> list[Problem]:
    """Load them as a server and as its client would, and let the two greet each other."""
    where = f"{_TLS}.{plane}"

    def problem(key: str, why: str, remedy: str) -> list[Problem]:
        return [Problem.error(file, f"{where}.{key}", why, value=str(paths[key]), suggestion=remedy)]

    for key, path in paths.items():
        if path.stat().st_size > _LARGEST:
            return problem(key, "too large for a certificate", "name the right file")
        if not os.access(path, os.R_OK):
            return problem(key, "the file cannot be read", "check who may read it")
    try:
        password = paths["passwd_file"].read_text(encoding="utf-8").strip() if "passwd_file" in paths else ""
    except UnicodeDecodeError:
        return problem("passwd_file", "no text", "write the password of the private key into it")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password given by a function that has none keeps OpenSSL from asking at the terminal.
        server.load_cert_chain(paths["cert_file"], paths["key_file"], password=lambda: password)
    except (ssl.SSLError, OSError, ValueError) as error:
        return problem(
            "key_file",
            f"it does not fit cert_file, or passwd_file is not its password: {_words(error)}",
            "name the key that the certificate was made with",
        )
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        client.load_verify_locations(paths["ca_file"])
    except (ssl.SSLError, OSError) as error:
        return problem("ca_file", f"no certificate of an authority: {_words(error)}", "name the authority's file")
    if "crl_file" in paths:
        try:
            client.load_verify_locations(paths["crl_file"])
        except (ssl.SSLError, OSError) as error:
            return problem("crl_file", f"no revocation list: {_words(error)}", 'name the list, or write ""')
        client.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    try:
        _greet(server, client)
    except ssl.SSLCertVerificationError as error:
        return problem(
            "cert_file",
            f"the authority of ca_file does not vouch for it: {error.verify_message}",
            "name the certificate that this authority signed and that is still good",
        )
    except ssl.SSLError as error:
        return problem("cert_file", f"no connection can be made with it: {_words(error)}", "make a new certificate")
    return []


def _greet(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    """A handshake in memory. Raises `ssl.SSLError` when it fails."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    waiting = [client, server]
    for _ in range(10):
        for side in [*waiting]:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
        if not waiting:
            return


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return str(error)
