"""What a configuration may say of processors, memory and devices of pods."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pymotor.config import Problem, UserConfig, json_path

_DEVICE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_OF_NODES = ("cpu", "memory", "ephemeral-storage")


def resources(user: UserConfig, file: str) -> Iterator[Problem]:
    """Devices are counted by the keys of roles, so that engines and pods agree on them."""
    config = user.motor_deploy_config.kubernetes_config.resources
    for part in type(config).model_fields:
        stated = getattr(config, part)
        for key in ("requests", "limits"):
            for name in getattr(stated, key, {}):
                if "/" in name:
                    yield Problem.error(
                        file,
                        json_path(("motor_deploy_config", "kubernetes_config", "resources", part, key, name)),
                        "devices are not counted here",
                        suggestion="write the number as e_pod_npu_num, p_pod_npu_num, d_pod_npu_num or"
                        " hybrid_pod_npu_num; an RDMA device as rdma_resource",
                    )
                elif name not in _OF_NODES and not name.startswith("hugepages-"):
                    yield Problem.error(
                        file,
                        json_path(("motor_deploy_config", "kubernetes_config", "resources", part, key, name)),
                        "no resource that nodes have",
                        allowed=f"{', '.join(_OF_NODES)}, hugepages-2Mi",
                        suggestion="correct the name",
                    )


def rdma_device(user: UserConfig, file: str) -> Iterator[Problem]:
    """Devices of a plugin have its domain in their name."""
    name = user.motor_deploy_config.kubernetes_config.rdma_resource
    if name is not None and not _DEVICE.fullmatch(name):
        yield Problem.error(
            file,
            "$.motor_deploy_config.kubernetes_config.rdma_resource",
            "no resource of a device plugin",
            value=name,
            allowed="DOMAIN/NAME, as rdma/hca",
            suggestion="look with kubectl describe node, under Allocatable",
        )
