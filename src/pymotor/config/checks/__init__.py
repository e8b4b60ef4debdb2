"""What must hold beyond the types: small functions from a configuration to its problems, one subject a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pymotor.config.checks import access, devices, environment, instances, options, ports, services
from pymotor.config.env import EnvConfig
from pymotor.config.problems import Problem
from pymotor.config.user import UserConfig

UserCheck = Callable[[UserConfig, str], Iterator[Problem]]

USER_CHECKS: tuple[UserCheck, ...] = (
    instances.counts,
    instances.sections,
    instances.hardware,
    instances.mixed_fleet,
    instances.image,
    instances.request_order,
    options.engine_type,
    options.spellings,
    options.old_model_config,
    options.parallel_sizes,
    options.likely_typos,
    devices.enough_devices,
    ports.collisions,
    ports.conductor_elsewhere,
    ports.ranges,
    access.api_keys,
    access.cross_origin,
    access.rate_limit,
    services.kv_affinity,
    services.kv_pool,
    services.likely_typos,
)


def check_user(user: UserConfig, file: str, directory: Path) -> list[Problem]:
    """Every problem of `user_config.json` that its types do not show; relative paths begin at `directory`."""
    problems = [problem for check in USER_CHECKS for problem in check(user, file)]
    return [*problems, *access.tls_files(user, file, directory)]


def check_env(env: EnvConfig, file: str) -> list[Problem]:
    """Every problem of `env.json` that the types alone do not show."""
    return [*environment.null_characters(env, file), *environment.booleans(env, file)]
