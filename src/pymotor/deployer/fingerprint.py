"""What of the configuration a running pod cannot take up: when that changes, its pods are rolled out anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.env import environment_string
from pymotor.deployer.config_text import user_content
from pymotor.deployer.naming import KV_CONDUCTOR, KV_POOL, SINGLE
from pymotor.deployer.options import RenderOptions

NUMBERS = tuple(f"{letter}_instances_num" for letter in ("e", "p", "d", "hybrid"))
"""Keys of `motor_deploy_config` that say how many instances there are."""

_TAKEN_UP: tuple[tuple[str, ...], ...] = (
    *(("motor_deploy_config", name) for name in NUMBERS),
    ("motor_deploy_config", "tls_config", "north_tls_config"),
    ("north_config",),
    ("motor_controller_config", "logging_config", "log_level"),
    ("motor_controller_config", "observability_config", "metrics_ttl"),
    ("motor_coordinator_config", "logging_config", "log_level"),
    ("motor_coordinator_config", "exception_config", "max_retry"),
    ("motor_coordinator_config", "exception_config", "retry_delay"),
    ("motor_coordinator_config", "exception_config", "first_token_timeout"),
    ("motor_coordinator_config", "exception_config", "infer_timeout"),
)
"""What running parts take up, or do not read; `kubernetes_config` and the image are in the template itself."""


def fingerprint(user: UserConfig, env: EnvConfig, options: RenderOptions, part: str) -> str:
    """A short word that changes with what a pod reads only when it starts."""
    content = user_content(user)
    for path in (*_TAKEN_UP, ("motor_deploy_config", "kubernetes_config")):
        _remove(content, path)
    seen = json.dumps(
        [_without_empty(content), part_variables(env, part), options.boot_script], sort_keys=True, ensure_ascii=True
    )
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def part_variables(env: EnvConfig, part: str) -> dict[str, str]:
    """The variables of env.json that a part's container gets. One with all parts in it gives each process its own."""
    if part == SINGLE:
        return {name: environment_string(value) for name, value in env.motor_common_env.items()}
    return env.variables({KV_POOL: "kv_cache_pool", KV_CONDUCTOR: "kv_conductor"}.get(part, part))


def _remove(content: dict[str, Any], path: Sequence[str]) -> None:
    holder: Any = content
    for step in path[:-1]:
        holder = holder.get(step) if isinstance(holder, dict) else None
    if isinstance(holder, dict):
        holder.pop(path[-1], None)


def _without_empty(value: Any) -> Any:
    """Without objects that hold nothing: `"logging_config": {}` says nothing."""
    if not isinstance(value, dict):
        return value
    inner = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in inner.items() if item != {}}
