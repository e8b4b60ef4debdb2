"""ConfigMaps: the configuration, and each part's environment."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config import EnvConfig, UserConfig
from pymotor.deployer.config_text import config_files
from pymotor.deployer.fingerprint import part_variables
from pymotor.deployer.naming import CONFIG_MAP, Manifest, Naming, environment_map
from pymotor.deployer.options import RenderOptions


def motor_config(user: UserConfig, env: EnvConfig, naming: Naming, options: RenderOptions) -> Manifest:
    """What pods find in CONFIG_PATH; also what the next update is compared with."""
    return _config_map(naming, CONFIG_MAP, "all", config_files(user, env, naming, options))


def environments(env: EnvConfig, naming: Naming, parts: list[str]) -> Iterator[Manifest]:
    """The variables of env.json. They go into pods as they are: no shell reads them, nor does Kubernetes."""
    for part in parts:
        yield _config_map(naming, environment_map(part), part, part_variables(env, part))


def _config_map(naming: Naming, name: str, part: str, data: dict[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": naming.metadata(name, part), "data": data}
