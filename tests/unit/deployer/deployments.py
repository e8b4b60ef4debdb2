"""Configurations to deploy, and how a test makes objects of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from changed_config import with_changes
from pymotor.config import EnvConfig, UserConfig, load_config
from pymotor.deployer.naming import Manifest
from pymotor.deployer.render import RenderOptions, render

REPOSITORY = Path(__file__).parents[3]
SEEDS = REPOSITORY / "tests" / "unit" / "config" / "seeds"
EXAMPLES = REPOSITORY / "examples" / "infer_engines"
BOOT_SCRIPT = "#!/bin/bash\nexec pymotor\n"
MODES = ("infer_service_set", "multi_deployment")


def epd_guide() -> dict[str, Any]:
    """The guide's configuration with encode, prefill and decode, as it is."""
    content: dict[str, Any] = json.loads((SEEDS / "epd_user_config.json").read_text(encoding="utf-8"))
    return content


def hybrid_guide() -> dict[str, Any]:
    """The guide's configuration with union instances, put together of its parts."""
    parts = [(SEEDS / f"hybrid_{name}_fragment.txt").read_text(encoding="utf-8") for name in ("deploy", "engine")]
    content: dict[str, Any] = json.loads("{" + ",".join(['"version": "v2.0"', *parts]) + "}")
    return {**content, "motor_controller_config": {}, "motor_coordinator_config": {}}


def hybrid_env() -> dict[str, Any]:
    """The guide's environment."""
    content: dict[str, Any] = json.loads((SEEDS / "hybrid_env.json").read_text(encoding="utf-8"))
    return content


def example(name: str) -> dict[str, Any]:
    """An example's user_config.json."""
    content: dict[str, Any] = json.loads((EXAMPLES / name / "user_config.json").read_text(encoding="utf-8"))
    return content


def deploying(base: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    """The configuration with other keys of motor_deploy_config."""
    return with_changes(base, {f"motor_deploy_config.{key}": value for key, value in keys.items()})


def loaded(
    directory: Path, user: Mapping[str, Any], env: Mapping[str, Any] | None = None
) -> tuple[UserConfig, EnvConfig]:
    """Both files as the deployer reads them."""
    user_path, env_path = written(directory, user, env)
    config = load_config(user_path, env_path)
    assert config.ok, [str(problem) for problem in config.problems]
    assert config.user is not None
    return config.user, config.env


def written(directory: Path, user: Mapping[str, Any], env: Mapping[str, Any] | None) -> tuple[Path, Path]:
    """Both files."""
    user_path, env_path = directory / "user_config.json", directory / "env.json"
    user_path.write_text(json.dumps(user), encoding="utf-8")
    env_path.write_text(json.dumps(env or {}), encoding="utf-8")
    return user_path, env_path


def rendered(
    directory: Path, user: Mapping[str, Any], env: Mapping[str, Any] | None = None, **options: Any
) -> list[Manifest]:
    """The objects of a configuration."""
    return render(*loaded(directory, user, env), RenderOptions(boot_script=BOOT_SCRIPT, **options))


def by_identity(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The objects by `Kind/name`."""
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in manifests}


def role_of(manifests: list[Manifest], name: str) -> dict[str, Any]:
    """A role of the InferServiceSet."""
    (whole,) = [manifest for manifest in manifests if manifest["kind"] == "InferServiceSet"]
    (role,) = [role for role in whole["spec"]["template"]["roles"] if role["name"] == name]
    return dict(role)


def container_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The container of a workload or role."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(container)


def variables_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """A container's variables by name; those that are fields of the pod by their path."""
    return {
        one["name"]: one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in container_of(workload)["env"]
    }
