"""Certificates of `tls_config`: which Secret holds them and where parts find them.

A Secret is mounted as a whole directory, never file by file, so that renewed certificates arrive without a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pymotor.config import UserConfig
from pymotor.config.deploy import TLSBlock
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, KV_CONDUCTOR, KV_POOL, SINGLE

PLANES = ("infer_tls_config", "mgmt_tls_config", "etcd_tls_config", "observability_tls_config", "north_tls_config")
FILE_KEYS = {
    "ca_file": "ca.crt",
    "cert_file": "tls.crt",
    "key_file": "tls.key",
    "passwd_file": "passwd",
    "crl_file": "ca.crl",
}
"""Keys of `tls_config` and the keys of a Secret; those of certificates are cert-manager's."""

_USERS = {
    "infer_tls_config": (COORDINATOR, *ENGINE_ROLES, SINGLE),
    "mgmt_tls_config": (CONTROLLER, COORDINATOR, *ENGINE_ROLES, SINGLE),
    "etcd_tls_config": (CONTROLLER, COORDINATOR),
    "observability_tls_config": (CONTROLLER,),
    "north_tls_config": (),
}
_READABLE = 0o440


@dataclass(frozen=True)
class Certificate:
    """One file in pods, and where it comes from."""

    plane: str
    secret: str
    key: str
    """Of the Secret."""
    path: str
    """In the pod, or under the directory of the configuration where it is relative."""


def block_of(user: UserConfig, plane: str) -> TLSBlock:
    """A plane's section."""
    block: TLSBlock = getattr(user.motor_deploy_config.tls_config, plane)
    return block


def secret_of(user: UserConfig, plane: str) -> str:
    """The Secret of a plane: the user's, else the one that is made here."""
    stated: str | None = getattr(user.motor_deploy_config.kubernetes_config.tls_secrets, plane)
    return stated or f"motor-tls-{plane.removesuffix('_tls_config')}"


def is_users_own(user: UserConfig, plane: str) -> bool:
    """Whether the user names a Secret that is in the cluster already."""
    return getattr(user.motor_deploy_config.kubernetes_config.tls_secrets, plane) is not None


def enabled_planes(user: UserConfig) -> Iterator[str]:
    """The planes that speak TLS."""
    yield from (plane for plane in PLANES if block_of(user, plane).enable_tls)


def certificates(user: UserConfig, part: str) -> Iterator[Certificate]:
    """The files that a part finds; where two planes name one file, it is the first one's."""
    seen = set()
    for plane in enabled_planes(user):
        if part not in _USERS[plane] or part in (KV_POOL, KV_CONDUCTOR):
            continue
        block = block_of(user, plane)
        for name, key in FILE_KEYS.items():
            path: str = getattr(block, name)
            if path and path not in seen:
                seen.add(path)
                yield Certificate(plane, secret_of(user, plane), key, str(PurePosixPath(path)))


def beside_config(found: list[Certificate]) -> list[dict[str, Any]]:
    """Sources for the volume of the configuration: files that are named relative to it."""
    return _sources([(one, one.path) for one in found if not one.path.startswith("/")])


def elsewhere(found: list[Certificate]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Volumes and mounts of files that are named by absolute paths, one for each directory."""
    directories: dict[str, list[Certificate]] = {}
    for one in found:
        if one.path.startswith("/"):
            directories.setdefault(str(PurePosixPath(one.path).parent), []).append(one)
    pairs = []
    for number, (directory, members) in enumerate(sorted(directories.items())):
        sources = _sources([(one, PurePosixPath(one.path).name) for one in members])
        volume = {"name": f"tls-{number}", "projected": {"sources": sources}}
        pairs.append((volume, {"name": f"tls-{number}", "mountPath": directory, "readOnly": True}))
    return pairs


def _sources(placed: list[tuple[Certificate, str]]) -> list[dict[str, Any]]:
    by_secret: dict[str, list[dict[str, Any]]] = {}
    for one, path in placed:
        by_secret.setdefault(one.secret, []).append({"key": one.key, "path": path, "mode": _READABLE})
    return [{"secret": {"name": name, "items": items}} for name, items in sorted(by_secret.items())]
