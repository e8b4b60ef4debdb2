"""Processors, memory and devices of pods."""

from __future__ import annotations

from typing import Any

from pymotor.config import UserConfig
from pymotor.config.kubernetes import PodResources
from pymotor.deployer.hardware import Hardware
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, SINGLE

_CONTROL = {
    CONTROLLER: PodResources(requests={"cpu": "500m", "memory": "512Mi"}, limits={"memory": "2Gi"}),
    COORDINATOR: PodResources(requests={"cpu": "2", "memory": "2Gi"}, limits={"memory": "8Gi"}),
}
_SMALL = PodResources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "4Gi"})
_WITH_DEVICES = PodResources(requests={"cpu": "16", "memory": "64Gi"}, limits={"memory": "256Gi"})
_ON_PROCESSORS = PodResources(requests={"cpu": "250m", "memory": "512Mi"}, limits={"memory": "16Gi"})


def resources(user: UserConfig, hardware: Hardware, part: str) -> dict[str, Any]:
    """Requests and limits of a part's container. No limit of processors unless asked for: it makes everything slower
    for nothing while the node has some left."""
    stated: PodResources | None = getattr(user.motor_deploy_config.kubernetes_config.resources, part.replace("-", "_"))
    chosen = stated or _default(hardware, part)
    extended = _devices(user, hardware, part)
    limits = {**chosen.limits, **extended}
    both = {"requests": {**chosen.requests, **extended}, "limits": limits}
    return {name: quantities for name, quantities in both.items() if quantities}


def devices_of(user: UserConfig, part: str) -> int:
    """Accelerators of one pod of a part."""
    if part in ENGINE_ROLES:
        return user.devices_per_pod(part)
    if part == SINGLE:
        return sum(
            user.instance_count(role) * user.pods_per_instance(role) * user.devices_per_pod(role)
            for role in ENGINE_ROLES
        )
    return 0


def _default(hardware: Hardware, part: str) -> PodResources:
    if part in _CONTROL:
        if not hardware.resource and part == COORDINATOR:
            return PodResources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "8Gi"})
        return _CONTROL[part]
    if part in ENGINE_ROLES or part == SINGLE:
        return _WITH_DEVICES if hardware.resource else _ON_PROCESSORS
    return _SMALL


def _devices(user: UserConfig, hardware: Hardware, part: str) -> dict[str, str]:
    extended = {}
    count = devices_of(user, part)
    if hardware.resource and count:
        extended[hardware.resource] = str(count)
    rdma = user.motor_deploy_config.kubernetes_config.rdma_resource
    if rdma and part in (*ENGINE_ROLES, SINGLE):
        extended[rdma] = "1"
    return extended
