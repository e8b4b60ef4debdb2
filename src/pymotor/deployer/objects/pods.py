"""The pod of a part: one container that starts with `boot.sh`."""

from __future__ import annotations

from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.deployer.fingerprint import fingerprint
from pymotor.deployer.hardware import Hardware
from pymotor.deployer.naming import (
    CONTROLLER,
    COORDINATOR,
    ENGINE_ROLES,
    KV_POOL,
    NUMBER_LABEL,
    SINGLE,
    Naming,
    environment_map,
)
from pymotor.deployer.objects.environment import environment
from pymotor.deployer.objects.probes import container_ports, probes
from pymotor.deployer.objects.rbac import account_of
from pymotor.deployer.objects.resources import devices_of, resources
from pymotor.deployer.objects.security import container_security, pod_security, runs_engines
from pymotor.deployer.objects.volumes import volumes
from pymotor.deployer.options import CONFIG_DIRECTORY, IMAGE_BOOT_SCRIPT, RenderOptions
from pymotor.deployer.services_used import replicas_of

_QUIET_SECONDS = 5
"""Until every node has heard that an ending Coordinator gets no new connections."""
_QUIET_PARTS = (COORDINATOR, SINGLE)
"""Whom clients reach through a Service. Engines get requests from Coordinators, who hear of their end at once."""
_SPARE_SECONDS = 30
"""What ending takes after the last request: engines give devices and shared memory back."""
_EVERYWHERE = "0.0.0.0"
_USER_CONFIG, _ENV_CONFIG = f"{CONFIG_DIRECTORY}/user_config.json", f"{CONFIG_DIRECTORY}/env.json"


def pod_template(
    user: UserConfig,
    env: EnvConfig,
    naming: Naming,
    hardware: Hardware,
    options: RenderOptions,
    part: str,
    number: int | None = None,
) -> dict[str, Any]:
    """The template of a part's pods; `number`: of an engine instance outside of a set."""
    pairs = volumes(user, hardware, part)
    drain = user.motor_deploy_config.kubernetes_config.drain_seconds
    container: dict[str, Any] = {
        "name": part,
        "image": user.motor_deploy_config.image_name,
        "imagePullPolicy": user.motor_deploy_config.kubernetes_config.image_pull_policy,
        "command": ["/bin/bash", _boot_script(options)],
        "args": arguments(user, part),
        "envFrom": [{"configMapRef": {"name": environment_map(part)}}],
        "env": environment(user, naming, hardware, part, number),
        "ports": container_ports(user, part),
        **probes(user, part),
        "resources": resources(user, hardware, part),
        "securityContext": container_security(user, part),
        "volumeMounts": [mount for _, mount in pairs],
    }
    if part in _QUIET_PARTS:
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(_QUIET_SECONDS)]}}}
    spec: dict[str, Any] = {
        "serviceAccountName": account_of(part),
        "automountServiceAccountToken": part == CONTROLLER,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _grace(part, drain),
        "securityContext": pod_security(user, part),
        "containers": [container],
        "volumes": [volume for volume, _ in pairs],
    }
    secrets = user.motor_deploy_config.kubernetes_config.image_pull_secrets
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    spec.update(_placement(user, naming, hardware, part))
    metadata: dict[str, Any] = {"labels": dict(naming.labels(part)), "annotations": {}}
    metadata["annotations"]["pymotor/configuration"] = fingerprint(user, env, options, part)
    if number is not None:
        metadata["labels"][NUMBER_LABEL] = str(number)
    if runs_engines(part):
        metadata["labels"].update(hardware.labels)
        metadata["annotations"].update(engine_annotations(user, hardware, part))
    return {"metadata": metadata, "spec": spec}


def arguments(user: UserConfig, part: str) -> list[str]:
    """What `boot.sh` passes on to the program of the part."""
    grace = ["--grace", str(user.motor_deploy_config.kubernetes_config.drain_seconds)]
    if part == CONTROLLER:
        host = user.motor_controller_config.api_config.controller_api_host or _EVERYWHERE
        return ["--user_config_path", _USER_CONFIG, "--lease", "kubernetes", "--host", host]
    if part == COORDINATOR:
        host = user.motor_coordinator_config.api_config.coordinator_api_host or _EVERYWHERE
        return ["--user_config_path", _USER_CONFIG, "--env_config_path", _ENV_CONFIG, "--host", host, *grace]
    if part in ENGINE_ROLES:
        return ["--config_dir", CONFIG_DIRECTORY, *grace]
    if part == SINGLE:
        return ["--config_dir", CONFIG_DIRECTORY, "--host", _EVERYWHERE, "--port", _single_port(user)]
    if part == KV_POOL:
        return _pool_arguments(user)
    return []


def engine_annotations(user: UserConfig, hardware: Hardware, part: str) -> dict[str, str]:
    """How the scheduler of the accelerators places the pods of an instance."""
    annotations = dict(hardware.annotations)
    if hardware.in_blocks:
        annotations["sp-block"] = str(devices_of(user, part) * replicas_of(user, part))
    return annotations


def _single_port(user: UserConfig) -> str:
    return str(user.motor_coordinator_config.api_config.coordinator_api_infer_port)


def _pool_arguments(user: UserConfig) -> list[str]:
    pool = user.kv_cache_pool_config
    assert pool is not None
    named = {
        "port": pool.port,
        "eviction_high_watermark_ratio": pool.eviction_high_watermark_ratio,
        "eviction_ratio": pool.eviction_ratio,
        "default_kv_lease_ttl": pool.default_kv_lease_ttl,
    }
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def _boot_script(options: RenderOptions) -> str:
    return IMAGE_BOOT_SCRIPT if options.boot_script is None else f"{CONFIG_DIRECTORY}/boot.sh"


def _grace(part: str, drain: int) -> int:
    """What the preStop hook, requests that run and the end itself may take together."""
    quiet = _QUIET_SECONDS if part in _QUIET_PARTS else 0
    return quiet + (drain if runs_engines(part) or part == COORDINATOR else 0) + _SPARE_SECONDS


def _placement(user: UserConfig, naming: Naming, hardware: Hardware, part: str) -> dict[str, Any]:
    """On which nodes: engines where their accelerators are, two of a control part apart where that is possible."""
    if not runs_engines(part):
        term = {"labelSelector": {"matchLabels": naming.selector(part)}, "topologyKey": "kubernetes.io/hostname"}
        apart = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
        return {"affinity": {"podAntiAffinity": apart}} if replicas_of(user, part) > 1 else {}
    deploy = user.motor_deploy_config
    selector = dict(hardware.node_selector)
    if deploy.enable_pd_heterogeneous:
        values = {
            "prefill": deploy.pd_heterogeneous_prefill_label_value,
            "decode": deploy.pd_heterogeneous_decode_label_value,
        }
        if part in values:
            selector[deploy.pd_heterogeneous_label_key] = values[part]
    selector.update(deploy.kubernetes_config.node_selector)
    placed: dict[str, Any] = {}
    if hardware.scheduler:
        placed["schedulerName"] = hardware.scheduler
    if selector:
        placed["nodeSelector"] = selector
    return placed
