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
from pymotor.control_plane.arguments import CERTIFICATE_VARIABLES, PEER_NAME_VARIABLE
from pymotor.control_plane.ports import http_url
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, KV_CONDUCTOR, SINGLE

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
    "infer_tls_config": (COORDINATOR, *ENGINE_ROLES, KV_CONDUCTOR, SINGLE),
    "mgmt_tls_config": (CONTROLLER, COORDINATOR, *ENGINE_ROLES, KV_CONDUCTOR, SINGLE),
    "etcd_tls_config": (CONTROLLER, COORDINATOR),
    "observability_tls_config": (CONTROLLER, COORDINATOR, SINGLE),
    "north_tls_config": (),
}
_READABLE = 0o440
MANAGEMENT = "mgmt_tls_config"


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
        if part not in _USERS[plane]:
            continue
        block = block_of(user, plane)
        for name, key in FILE_KEYS.items():
            path: str = getattr(block, name)
            if path and path not in seen:
                seen.add(path)
                yield Certificate(plane, secret_of(user, plane), key, str(PurePosixPath(path)))


def asked_in_pods(user: UserConfig, host: str, port: int) -> tuple[str, tuple[str, ...]]:
    """The URL of a part's management for who asks it in its own pod, and the options that go with it: there it is
    dialled by an address, which its certificate does not have to name."""
    if not block_of(user, MANAGEMENT).enable_tls:
        return http_url(host, port), ()
    return http_url(host, port, secure=True), ("--any-name",)


def verbs_environment(user: UserConfig, part: str, directory: str) -> dict[str, str]:
    """The variables by which verbs of PyMotor that are run in a pod find the certificates of management."""
    block = block_of(user, MANAGEMENT)
    if not block.enable_tls or part not in _USERS[MANAGEMENT]:
        return {}
    named = {variable: getattr(block, key) for key, variable in CERTIFICATE_VARIABLES.items()}
    found = {variable: str(PurePosixPath(directory) / path) for variable, path in named.items() if path}
    return {**found, **({PEER_NAME_VARIABLE: block.peer_name} if block.peer_name else {})}


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
    by_secret: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for one, path in placed:
        # A password is named by default, and pods of a Secret without the key would never start.
        optional = one.key == FILE_KEYS["passwd_file"]
        by_secret.setdefault((one.secret, optional), []).append({"key": one.key, "path": path, "mode": _READABLE})
    return [
        {"secret": {"name": name, "items": items, **({"optional": True} if optional else {})}}
        for (name, optional), items in sorted(by_secret.items(), key=lambda one: (one[0][0], not one[0][1]))
    ]
