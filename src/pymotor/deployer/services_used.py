"""Which parts a configuration asks for beside engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pymotor.config import UserConfig
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, KV_CONDUCTOR, KV_POOL, SINGLE


def parts_of(user: UserConfig) -> Iterator[str]:
    """The parts that are deployed, Controller first."""
    if user.motor_deploy_config.deploy_mode == "single_container":
        yield SINGLE
        return
    yield CONTROLLER
    yield COORDINATOR
    yield from (role for role in ENGINE_ROLES if user.instance_count(role))
    if uses_pool(user):
        yield KV_POOL
    if conductor_port(user):
        yield KV_CONDUCTOR


def uses_pool(user: UserConfig) -> bool:
    """Whether engines share a pool of KV cache whose master is deployed here."""
    pool = user.kv_cache_pool_config
    return pool is not None and bool(pool.model_fields_set | set(pool.model_extra or {}))


def conductor_port(user: UserConfig) -> int:
    """The port of the KV conductor, 0 where there is none."""
    conductor = user.kv_conductor_config
    return conductor.http_server_port if conductor is not None else 0


def needs_pool(user: UserConfig) -> Iterator[str]:
    """The engine roles whose connectors store KV in a pool."""
    for role in ENGINE_ROLES:
        section = user.engine_section(role)
        transfer = section.options.get("kv_transfer_config") if section is not None else None
        if user.instance_count(role) and isinstance(transfer, Mapping) and "MooncakeConnectorStore" in str(transfer):
            yield role


def replicas_of(user: UserConfig, part: str) -> int:
    """Pods of one workload of a part."""
    if part in ENGINE_ROLES:
        return user.pods_per_instance(part)
    standby = {
        CONTROLLER: user.motor_controller_config.standby_config,
        COORDINATOR: user.motor_coordinator_config.standby_config,
    }
    return 2 if part in standby and standby[part].enable_master_standby else 1
