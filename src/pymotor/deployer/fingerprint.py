"""What of the configuration a running pod cannot take up: when that changes, its pods are rolled out anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.env import environment_string
from pymotor.config.live_keys import LIVE_KEYS, SCALING_KEYS
from pymotor.deployer.config_text import user_content
from pymotor.deployer.naming import KV_CONDUCTOR, KV_POOL, SINGLE
from pymotor.deployer.options import RenderOptions


def fingerprint(user: UserConfig, env: EnvConfig, options: RenderOptions, part: str) -> str:
    """A short word that changes with what a pod reads only when it starts."""
    content = user_content(user)
    for key in (*LIVE_KEYS, *SCALING_KEYS):
        _remove(content, key.path)
    # In the template itself, as the image is.
    _remove(content, ("motor_deploy_config", "kubernetes_config"))
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
