"""Probes and the ports they ask at."""

from __future__ import annotations

from typing import Any

from pymotor.config import UserConfig
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, KV_POOL, SINGLE
from pymotor.deployer.services_used import conductor_port

_EXEC_SECONDS = 5
"""The probe itself gives up before."""
_START_TRIES = 120
"""At five seconds each: a large image's Python takes its time on a cold disk."""


def ports_of(user: UserConfig, part: str) -> dict[str, int]:
    """The ports of a part's container by name; the first one is asked by probes."""
    if part == CONTROLLER:
        api = user.motor_controller_config.api_config
        ports = {"api": api.controller_api_port}
        if user.motor_controller_config.observability_config.observability_enable:
            ports["alarms"] = api.observability_api_port
        return ports
    if part == SINGLE:
        # `pymotor up` counts its ports up from that of clients.
        first = user.motor_coordinator_config.api_config.coordinator_api_infer_port
        return {"management": first + 1, "infer": first, "metrics": first + 2}
    if part == COORDINATOR:
        door = user.motor_coordinator_config.api_config
        return {
            "management": door.coordinator_api_mgmt_port,
            "infer": door.coordinator_api_infer_port,
            "metrics": door.coordinator_obs_port,
        }
    if part in ENGINE_ROLES:
        section = user.engine_section(part)
        assert section is not None
        return {"management": section.motor_nodemanger_config.api_config.node_manager_port}
    if part == KV_POOL:
        assert user.kv_cache_pool_config is not None
        return {"pool": user.kv_cache_pool_config.port, "metrics": 9003}
    return {"conductor": conductor_port(user)}


def container_ports(user: UserConfig, part: str) -> list[dict[str, Any]]:
    """The ports as a container states them."""
    return [{"name": name, "containerPort": number} for name, number in ports_of(user, part).items()]


def probes(user: UserConfig, part: str) -> dict[str, Any]:
    """The three probes of a container.

    Ready is a Controller that leads or passes on to the one that does, a Coordinator that can serve a model, an
    engine pod whose servers all are; alive is a process that answers at all, so that no engine is killed for being
    busy.
    """
    port = next(iter(ports_of(user, part)))
    if part in (CONTROLLER, COORDINATOR, SINGLE, *ENGINE_ROLES):
        asked = {name: _asked(user, f"/{name}", part, port) for name in ("startup", "readiness", "liveness")}
    else:
        asked = {name: {"tcpSocket": {"port": port}} for name in ("startup", "readiness", "liveness")}
    return {
        "startupProbe": {**asked["startup"], "periodSeconds": 5, "failureThreshold": _START_TRIES},
        "readinessProbe": {**asked["readiness"], "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**asked["liveness"], "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def _asked(user: UserConfig, path: str, part: str, port: str) -> dict[str, Any]:
    """kubelet checks no certificate and has none to show: where one is required, the container asks itself."""
    block = user.motor_deploy_config.tls_config.mgmt_tls_config
    if not block.enable_tls:
        return {"httpGet": {"path": path, "port": port}}
    if block.client_auth != "required":
        return {"httpGet": {"path": path, "port": port, "scheme": "HTTPS"}}
    number = str(ports_of(user, part)[port])
    return {"exec": {"command": ["pymotor", "probe", "--any-name", number, path]}, "timeoutSeconds": _EXEC_SECONDS}
