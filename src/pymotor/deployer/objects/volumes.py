"""Volumes of pods and where their containers see them."""

from __future__ import annotations

from typing import Any

from pymotor.config import UserConfig
from pymotor.deployer import tls
from pymotor.deployer.hardware import Hardware
from pymotor.deployer.naming import CONFIG_MAP, COORDINATOR, ENGINE_ROLES, SINGLE, TOKEN_SECRET
from pymotor.deployer.objects.environment import SCRATCH
from pymotor.deployer.objects.security import runs_engines
from pymotor.deployer.options import CONFIG_DIRECTORY, TOKEN_DIRECTORY
from pymotor.deployer.storage import Mount, merged_mounts, mounts_of, named_paths, weights_only

Pair = tuple[dict[str, Any], dict[str, Any]]
"""A volume and its mount."""

_RUNNABLE = 0o555


def volumes(user: UserConfig, hardware: Hardware, part: str) -> list[Pair]:
    """All volumes of a part's pod with their mounts."""
    certificates = list(tls.certificates(user, part))
    pairs = [_config(certificates), _token(), _memory("scratch", SCRATCH, "", "")]
    pairs += tls.elsewhere(certificates)
    if runs_engines(part):
        size = user.motor_deploy_config.kubernetes_config.shared_memory_size
        pairs.append(_memory("shared-memory", "/dev/shm", "Memory", size))  # noqa: S108  in the container
        pairs += _device_files(user, hardware)
    pairs += [(mount.volume(), mount.mount()) for mount in _directories(user, part)]
    return pairs


def _directories(user: UserConfig, part: str) -> tuple[Mount, ...]:
    if part in ENGINE_ROLES:
        return mounts_of(user, part)
    if part == SINGLE:
        every = [mount for role in ENGINE_ROLES if user.instance_count(role) for mount in mounts_of(user, role)]
        paths = [
            path
            for role in ENGINE_ROLES
            if user.instance_count(role) and (section := user.engine_section(role)) is not None
            for path in named_paths(section)
        ]
        known = {mount.path: mount for mount in merged_mounts(user, paths)}
        return tuple({**{mount.path: mount for mount in every}, **known}.values())
    scheduler = user.motor_coordinator_config.scheduler_config
    if part == COORDINATOR and scheduler.scheduler_type == "kv_cache_affinity":
        return weights_only(user)
    return ()


def _config(certificates: list[tls.Certificate]) -> Pair:
    """The configuration as a whole directory: what changes in the ConfigMap changes in the pod."""
    sources = [{"configMap": {"name": CONFIG_MAP}}, *tls.beside_config(certificates)]
    return (
        {"name": "config", "projected": {"sources": sources, "defaultMode": _RUNNABLE}},
        {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
    )


def _token() -> Pair:
    return (
        {"name": "cluster-token", "secret": {"secretName": TOKEN_SECRET, "defaultMode": 0o444}},
        {"name": "cluster-token", "mountPath": TOKEN_DIRECTORY, "readOnly": True},
    )


def _memory(name: str, path: str, medium: str, size: str) -> Pair:
    source = {key: value for key, value in (("medium", medium), ("sizeLimit", size)) if value}
    return {"name": name, "emptyDir": source}, {"name": name, "mountPath": path}


def _device_files(user: UserConfig, hardware: Hardware) -> list[Pair]:
    pairs: list[Pair] = [
        (
            {"name": file.name, "hostPath": {"path": file.path, "type": file.kind}},
            {"name": file.name, "mountPath": file.path, "readOnly": True},
        )
        for file in hardware.host_files
    ]
    wanted = user.motor_deploy_config.kubernetes_config.host_rdma
    if wanted if wanted is not None else hardware.ascend:
        path = "/dev/infiniband"
        # Nodes whose accelerators have their own network may lack it.
        volume = {"name": "infiniband", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
        pairs.append((volume, {"name": "infiniband", "mountPath": path}))
    return pairs
