"""Which directories a pod sees: those that its engine's configuration names, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pymotor.config import UserConfig
from pymotor.config.engine import EngineSection
from pymotor.deployer.naming import ENGINE_ROLES

_READ_OPTIONS = (
    "allowed_local_media_path",
    "model",
    "model_path",
    "tokenizer",
    "tokenizer_path",
    "hf_config_path",
    "chat_template",
)
"""Options of engines that may name a path of the host."""

_STORE_SECTIONS = ("ec_transfer_config", "kv_transfer_config")
_WRITE_OPTIONS = ("shared_storage_path",)


@dataclass(frozen=True)
class NamedPath:
    """A path that the configuration of an engine names."""

    path: str
    key: str
    """Where it is named, as `ec_transfer_config.ec_connector_extra_config.shared_storage_path`."""
    writable: bool


@dataclass(frozen=True)
class Mount:
    """A directory of the host, or of a claim, at the same path in the pod."""

    path: str
    writable: bool
    claim: str = ""
    """The PersistentVolumeClaim; empty: the host's own directory."""

    @property
    def name(self) -> str:
        """The name of the volume."""
        words = re.sub(r"[^a-z0-9]+", "-", self.path.lower()).strip("-") or "root"
        return f"data-{words}"[:63].rstrip("-")

    def volume(self) -> dict[str, Any]:
        """The pod's volume."""
        if self.claim:
            source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": self.claim}}
        else:
            # What is written to may be made; what is read must be there, or the engine starts with nothing.
            kind = "DirectoryOrCreate" if self.writable else "Directory"
            source = {"hostPath": {"path": self.path, "type": kind}}
        return {"name": self.name, **source}

    def mount(self) -> dict[str, Any]:
        """The container's mount."""
        mount: dict[str, Any] = {"name": self.name, "mountPath": self.path}
        if not self.writable:
            mount["readOnly"] = True
        return mount


def named_paths(section: EngineSection) -> Iterator[NamedPath]:
    """The absolute paths of an engine's options; file names of weights in a hub are none."""
    options = section.options
    for name in _READ_OPTIONS:
        value = options.get(name)
        if isinstance(value, str) and value.startswith("/"):
            yield NamedPath(value, section.written(name), writable=False)
    draft = options.get("speculative_config")
    if isinstance(draft, Mapping) and str(draft.get("model", "")).startswith("/"):
        yield NamedPath(str(draft["model"]), f"{section.written('speculative_config')}.model", writable=False)
    for name in _STORE_SECTIONS:
        yield from _stores(options.get(name), section.written(name))


def _stores(value: object, key: str) -> Iterator[NamedPath]:
    """Directories in which instances leave something for each other, at any depth: connectors can hold others."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in _WRITE_OPTIONS and isinstance(inner, str) and inner.startswith("/"):
                yield NamedPath(inner, f"{key}.{name}", writable=True)
            else:
                yield from _stores(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _stores(inner, f"{key}[{index}]")


def mounts_of(user: UserConfig, role: str) -> tuple[Mount, ...]:
    """What an engine pod of a role sees: the weights, and what its options name beside them."""
    section = user.engine_section(role)
    paths = [] if section is None else list(named_paths(section))
    weights = user.motor_deploy_config.weight_mount_path
    if weights and _wants_weights(user, paths):
        paths.insert(0, NamedPath(weights, "weight_mount_path", writable=False))
    return merged_mounts(user, paths)


def weights_only(user: UserConfig) -> tuple[Mount, ...]:
    """What a Coordinator sees that needs the model's tokenizer."""
    path = user.motor_deploy_config.weight_mount_path
    return merged_mounts(user, [NamedPath(path, "weight_mount_path", writable=False)])


def merged_mounts(user: UserConfig, paths: Iterable[NamedPath]) -> tuple[Mount, ...]:
    """One mount for each directory: what lies in another mounted directory needs none of its own, unless it is
    written to and the other is not."""
    claims = {clean(path): claim for path, claim in _claims(user).items()}
    mounts: dict[str, Mount] = {}
    for named in sorted(paths, key=lambda named: (len(PurePosixPath(clean(named.path)).parts), named.path)):
        path = clean(named.path)
        claimed = next((known for known in claims if within(path, known)), None)
        place = claimed or path
        above = next((mount for mount in mounts.values() if within(place, mount.path)), None)
        if above is not None and (above.writable or not named.writable) and above.claim == claims.get(place, ""):
            continue
        writable = named.writable or (place in mounts and mounts[place].writable)
        mounts[place] = Mount(place, writable, claims.get(place, ""))
    return tuple(mounts.values())


def shared_on_hosts(user: UserConfig) -> dict[str, list[str]]:
    """Directories that pods write to and that are each host's own: by directory, the roles that use it."""
    users: dict[str, list[str]] = {}
    for role in ENGINE_ROLES:
        if user.instance_count(role):
            for mount in mounts_of(user, role):
                if mount.writable and not mount.claim:
                    users.setdefault(mount.path, []).append(role)
    return users


def clean(path: str) -> str:
    """The path without double or trailing slashes; `..` stays, for the checks to refuse."""
    return str(PurePosixPath("/" + path.lstrip("/"))) if path.startswith("/") else str(PurePosixPath(path))


def within(path: str, directory: str) -> bool:
    """Whether a path is the directory or lies in it."""
    return PurePosixPath(path).is_relative_to(directory)


def _claims(user: UserConfig) -> Mapping[str, str]:
    return user.motor_deploy_config.kubernetes_config.persistent_volume_claims


def _wants_weights(user: UserConfig, paths: Iterable[NamedPath]) -> bool:
    """The directory of weights is there for whoever names it or a model in it; a simulated engine needs none."""
    deploy = user.motor_deploy_config
    stated = "weight_mount_path" in deploy.model_fields_set
    return stated or any(within(clean(named.path), clean(deploy.weight_mount_path)) for named in paths)
