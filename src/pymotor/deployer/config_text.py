"""The files of ConfigMap `motor-config`, as pods find them in CONFIG_PATH."""

from __future__ import annotations

import json
from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.deployer.naming import KV_POOL, Naming
from pymotor.deployer.options import RenderOptions
from pymotor.deployer.services_used import conductor_port, uses_pool


def user_content(user: UserConfig) -> dict[str, Any]:
    """`user_config.json` as the user wrote it, without what is only assumed."""
    content: dict[str, Any] = user.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return content


def config_files(user: UserConfig, env: EnvConfig, naming: Naming, options: RenderOptions) -> dict[str, str]:
    """The files by name."""
    written = env.model_dump(mode="json", by_alias=True, exclude_unset=True)
    files = {"user_config.json": _text(user_content(user)), "env.json": _text(written)}
    if options.boot_script is not None:
        files["boot.sh"] = options.boot_script
    if uses_pool(user):
        files["kv_cache_pool_config.json"] = _text(_pool(user, naming))
    if conductor_port(user):
        files["kv_conductor_config.json"] = _text(_conductor(user, naming))
    return files


def _pool(user: UserConfig, naming: Naming) -> dict[str, Any]:
    pool = user.kv_cache_pool_config
    assert pool is not None
    content: dict[str, Any] = pool.model_dump(mode="json", exclude_unset=True)
    return {**content, "master_server_address": _master(user, naming)}


def _conductor(user: UserConfig, naming: Naming) -> dict[str, Any]:
    conductor = user.kv_conductor_config
    assert conductor is not None
    content: dict[str, Any] = conductor.model_dump(mode="json", exclude_unset=True)
    master = content.get("kvevent_instance", {}).get("mooncake_master")
    if master is not None:
        if uses_pool(user):
            master.setdefault("endpoint", _master(user, naming))
        model = _model_name(user)
        if model:
            master.setdefault("modelname", model)
    return content


def _master(user: UserConfig, naming: Naming) -> str:
    assert user.kv_cache_pool_config is not None
    return f"{naming.address(KV_POOL, 'pool')}:{user.kv_cache_pool_config.port}"


def _model_name(user: UserConfig) -> str:
    for role in ("prefill", "union", "decode"):
        section = user.engine_section(role)
        if section is not None:
            name = section.options.get("served_model_name") or section.options.get("model")
            if name:
                return str(name)
    return ""


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
