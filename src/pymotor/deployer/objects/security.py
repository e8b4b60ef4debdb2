"""What pods may do: nothing but what their devices need."""

from __future__ import annotations

from typing import Any

from pymotor.config import UserConfig
from pymotor.deployer.naming import ENGINE_ROLES, SINGLE


def runs_engines(part: str) -> bool:
    """Whether a part's pods have engines in them."""
    return part in ENGINE_ROLES or part == SINGLE


def pod_security(user: UserConfig, part: str) -> dict[str, Any]:
    """The security context of a pod."""
    config = user.motor_deploy_config.kubernetes_config
    engines = runs_engines(part)
    profile = config.engine_seccomp_profile if engines else "RuntimeDefault"
    context: dict[str, Any] = {"seccompProfile": {"type": profile}}
    runs_as = config.engine_run_as_user if engines else config.control_run_as_user
    if runs_as is not None:
        context.update(runAsUser=runs_as, runAsGroup=runs_as, fsGroup=runs_as)
        if runs_as:
            context["runAsNonRoot"] = True
    return context


def container_security(user: UserConfig, part: str) -> dict[str, Any]:
    """The security context of a container. Engines write where their libraries like to; the others do not."""
    config = user.motor_deploy_config.kubernetes_config
    if runs_engines(part) and config.engine_privileged:
        return {"privileged": True}
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    wanted = list(config.engine_capabilities) if runs_engines(part) else []
    if runs_engines(part) and config.rdma_resource and "IPC_LOCK" not in wanted:
        wanted.append("IPC_LOCK")  # RDMA pins the memory that it sends from
    if wanted:
        capabilities["add"] = wanted
    context: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": capabilities}
    if not runs_engines(part):
        context["readOnlyRootFilesystem"] = True
    return context
