"""The environment of containers: who they are and where the others are."""

from __future__ import annotations

from typing import Any

from pymotor.config import UserConfig
from pymotor.deployer.hardware import Hardware
from pymotor.deployer.naming import (
    CONTROLLER,
    COORDINATOR,
    ENGINE_ROLES,
    KV_CONDUCTOR,
    KV_POOL,
    SINGLE,
    TOKEN_KEY,
    Naming,
    letter,
)
from pymotor.deployer.options import CONFIG_DIRECTORY, TOKEN_DIRECTORY
from pymotor.deployer.services_used import conductor_port, uses_pool
from pymotor.deployer.tls import verbs_environment

Variable = dict[str, Any]

_ROLES = {KV_POOL: "kv_pool", KV_CONDUCTOR: "kv_conductor", SINGLE: "SINGLE_CONTAINER"}
"""What ROLE says where it is not the part's name: the words that users know."""

SCRATCH = "/run/pymotor"
"""What a container may always write to. Not /tmp, where the image has its own files."""


def environment(
    user: UserConfig, naming: Naming, hardware: Hardware, part: str, number: int | None = None
) -> list[Variable]:
    """The variables of a container; they win over those of env.json. `number`: of an engine instance."""
    variables = [
        _field("POD_NAME", "metadata.name"),
        _field("POD_NAMESPACE", "metadata.namespace"),
        _field("POD_IP", "status.podIP"),
        _field("HOST_IP", "status.hostIP"),
        _field("NODE_NAME", "spec.nodeName"),
        _value("ROLE", _ROLES.get(part, part)),
        *_job(user, naming, part, number),
        _value("CONFIG_PATH", CONFIG_DIRECTORY),
        _value("CONFIGMAP_PATH", CONFIG_DIRECTORY),
        _value("PYMOTOR_CLUSTER_TOKEN_FILE", f"{TOKEN_DIRECTORY}/{TOKEN_KEY}"),
        _value("TMPDIR", SCRATCH),
    ]
    if part != SINGLE:
        variables += [
            _value("CONTROLLER_SERVICE", naming.address(CONTROLLER, "api")),
            _value("COORDINATOR_SERVICE", naming.address(COORDINATOR, "management")),
            _value("COORDINATOR_INFER_SERVICE", naming.address(COORDINATOR, "infer")),
            _value("COORDINATOR_OBS_SERVICE", naming.address(COORDINATOR, "observability")),
        ]
    variables += [_value(*one) for one in verbs_environment(user, part, CONFIG_DIRECTORY).items()]
    if uses_pool(user) and part != SINGLE:
        variables.append(_value("KVP_MASTER_SERVICE", naming.address(KV_POOL, "pool")))
    if conductor_port(user) and part != SINGLE:
        variables.append(_value("KV_CONDUCTOR_SERVICE", naming.address(KV_CONDUCTOR, "conductor")))
    if part in ENGINE_ROLES:
        variables += _of_engine(user, hardware)
    elif part == SINGLE:
        variables.append(_value("PYMOTOR_HOME", SCRATCH))
    elif part == KV_POOL:
        variables += _of_pool(user)
    elif part == KV_CONDUCTOR:
        variables.append(_value("CONDUCTOR_CONFIG_PATH", f"{CONFIG_DIRECTORY}/kv_conductor_config.json"))
    return variables


def _job(user: UserConfig, naming: Naming, part: str, number: int | None) -> list[Variable]:
    """The pods of an instance of several have a job of their own, so that they are put together with no others."""
    if part not in ENGINE_ROLES or user.pods_per_instance(part) == 1:
        return [_value("JOB_NAME", naming.namespace)]
    stem = f"{naming.namespace}-{letter(part)}"
    if not naming.in_set:
        return [_value("JOB_NAME", f"{stem}{number}")]
    # The operator numbers a role's instances by this label. Without it all of them have one job, which works too.
    return [
        _field("INSTANCE_NUMBER", "metadata.labels['infer.huawei.com/instanceset-index']"),
        _value("JOB_NAME", f"{stem}$(INSTANCE_NUMBER)"),
    ]


def _of_engine(user: UserConfig, hardware: Hardware) -> list[Variable]:
    variables = []
    if hardware.device_table:
        variables += [
            _value("HCCL_PATH", f"{SCRATCH}/hccl.json"),
            _value("RANKTABLE_PATH", f"{SCRATCH}/ranktable.json"),
        ]
    if uses_pool(user):
        variables.append(_value("MOONCAKE_CONFIG_PATH", f"{CONFIG_DIRECTORY}/kv_cache_pool_config.json"))
    return variables


def _of_pool(user: UserConfig) -> list[Variable]:
    pool = user.kv_cache_pool_config
    assert pool is not None
    named = {
        "KV_POOL_PORT": pool.port,
        "KV_POOL_EVICTION_HIGH_WATERMARK_RATIO": pool.eviction_high_watermark_ratio,
        "KV_POOL_EVICTION_RATIO": pool.eviction_ratio,
        "DEFAULT_KV_LEASE_TTL": pool.default_kv_lease_ttl,
    }
    return [_value(name, str(value)) for name, value in named.items() if value is not None]


def _value(name: str, value: str) -> Variable:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Variable:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
