"""Certificates on this machine: read for Secrets, and refused where they do not fit together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pymotor.config import Problem, UserConfig
from pymotor.config.deploy import TLSBlock
from pymotor.control_plane.certificate_files import check_vouched_for
from pymotor.control_plane.path_checks import is_file
from pymotor.control_plane.tls import ClientTLS, TLSError, tls_files
from pymotor.control_plane.tls import TLSFiles as CertificateFiles
from pymotor.deployer.tls import FILE_KEYS, block_of, enabled_planes, is_users_own

_TLS = "$.motor_deploy_config.tls_config"
_NEEDED = ("ca_file", "cert_file", "key_file")


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
    for plane in enabled_planes(user):
        if is_users_own(user, plane):
            continue
        block = block_of(user, plane)
        problems = _missing(block, plane, file, directory, dry_run=dry_run)
        files = tls_files(block, directory)
        assert files is not None, "the plane is one of `enabled_planes`"
        if not problems and all(is_file(Path(getattr(files, key))) for key in _NEEDED):
            if files.crl_file and not is_file(Path(files.crl_file)):
                files = replace(files, crl_file="")
            problems = _unfit(files, plane, file)
            if not problems:
                found.contents[plane] = _contents(files)
        found.problems.extend(problems)
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
        elif name and not dry_run and not is_file(directory / name):
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


def _unfit(files: CertificateFiles, plane: str, file: str) -> list[Problem]:
    """As parts in the cluster load them; and all of a plane have the same, so that its authority vouches for it."""
    try:
        ClientTLS(files)
        check_vouched_for(files)
    except TLSError as error:
        return [Problem.error(file, f"{_TLS}.{plane}", str(error))]
    return []


def _contents(files: CertificateFiles) -> dict[str, bytes]:
    """What becomes of them in a Secret, by its keys."""
    named = {secret_key: getattr(files, key) for key, secret_key in FILE_KEYS.items()}
    return {key: Path(path).read_bytes() for key, path in named.items() if path and is_file(Path(path))}
