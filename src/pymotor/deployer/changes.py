"""What differs between the configuration of the cluster and the one that is to come, and what of it may."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pymotor.config import json_path
from pymotor.config.differences import Path, differences
from pymotor.config.live_keys import INSTANCE_NUMBERS, LIVE_KEYS, live_key
from pymotor.deployer.naming import CONFIG_MAP, Manifest
from pymotor.deployer.request import DeployError

CONFIG_KEY = "user_config.json"
MOST_INSTANCES = 16
_DEPLOY = "motor_deploy_config"
_MODE = (_DEPLOY, "deploy_mode")
_DEFAULT_MODE = "infer_service_set"


def check_scaling(old: Any, new: Any) -> list[Path]:
    """The instance numbers that change. Raises `DeployError` where one is out of range or anything else changes."""
    changed = _changes(old, new)
    others = [
        path for path in changed if path[:1] != (_DEPLOY,) or path[1:] not in {(key,) for key in INSTANCE_NUMBERS}
    ]
    if others:
        raise DeployError(
            f"--update_instance_num may change instance numbers only, but these changed too: {_listed(others)}\n"
            f"    to do: put them back to what the ConfigMap {CONFIG_MAP} of the cluster says, or run deploy.py "
            "without --update_instance_num"
        )
    section = new.get(_DEPLOY, {}) if isinstance(new, dict) else {}
    for key in INSTANCE_NUMBERS:
        number = section.get(key)
        least = 0 if key == "e_instances_num" else 1
        if number is not None and not (type(number) is int and least <= number <= MOST_INSTANCES):
            raise DeployError(
                f"{json_path((_DEPLOY, key))} is {json.dumps(number)}\n"
                f"    to do: write a whole number from {least} to {MOST_INSTANCES}"
            )
    return changed


def check_live_update(old: Any, new: Any) -> list[Path]:
    """The keys that change. Raises `DeployError` where one is not among those that may while the fleet runs."""
    changed = _changes(old, new)
    numbers = [path for path in changed if len(path) == 2 and path[0] == _DEPLOY and path[1] in INSTANCE_NUMBERS]
    if numbers:
        raise DeployError(
            f"--update_config does not scale, but these changed: {_listed(numbers)}\n"
            "    to do: use --update_instance_num to scale instances"
        )
    if _MODE in changed:
        raise DeployError(
            f"{json_path(_MODE)} cannot be changed by --update_config\n"
            "    to do: bash delete.sh the deployment, then deploy it in the other mode"
        )
    others = [path for path in changed if live_key(path, LIVE_KEYS) is None]
    if others:
        raise DeployError(
            f"--update_config may not change {_listed(others)}\n"
            f"    may change: {_listed(key.path for key in LIVE_KEYS)}\n"
            "    to do: put the others back, or run deploy.py without --update_config"
        )
    return changed


def config_of(config_map: Manifest | None, *, where: str) -> Any:
    """`user_config.json` as a ConfigMap holds it. `where` says in errors whose it is. Raises `DeployError`."""
    text = ((config_map or {}).get("data") or {}).get(CONFIG_KEY)
    if text is None:
        raise DeployError(
            f"{where} has no ConfigMap {CONFIG_MAP} with {CONFIG_KEY}: nothing is deployed there\n"
            "    to do: check job_id and the kubeconfig, or deploy it first: run deploy.py without --update_..."
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise DeployError(
            f"{CONFIG_KEY} in the ConfigMap {CONFIG_MAP} of {where} is no JSON: {error}\n"
            "    to do: run deploy.py without --update_..., which writes it anew"
        ) from error


def _changes(old: Any, new: Any) -> list[Path]:
    changed = differences(old, new)
    return [path for path in changed if path != _MODE or mode_of(old) != mode_of(new)]


def mode_of(config: Any) -> Any:
    """`deploy_mode` of a `user_config.json`."""
    section = config.get(_DEPLOY) if isinstance(config, dict) else None
    return section.get("deploy_mode", _DEFAULT_MODE) if isinstance(section, dict) else _DEFAULT_MODE


def takers(changed: Iterable[Path]) -> dict[str, list[str]]:
    """Who takes up which of the keys, in words; under the empty word those that no part reads."""
    found: dict[str, list[str]] = {}
    for path in changed:
        key = live_key(path, LIVE_KEYS)
        for part in sorted(part.value for part in key.parts) if key is not None and key.parts else [""]:
            found.setdefault(part, []).append(json_path(path))
    return found


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(json_path(path) for path in paths)
