"""What differs between the configuration of the cluster and the one that is to come, and what of it may."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pymotor.config import json_path
from pymotor.deployer.kubectl import Manifest
from pymotor.deployer.request import DeployError

CONFIG_MAP = "motor-config"
CONFIG_KEY = "user_config.json"
INSTANCE_NUMBERS = ("e_instances_num", "p_instances_num", "d_instances_num", "hybrid_instances_num")
MOST_INSTANCES = 16
_DEPLOY = "motor_deploy_config"
_MODE = (_DEPLOY, "deploy_mode")
_DEFAULT_MODE = "infer_service_set"

Path = tuple[str | int, ...]

_TLS = ("enable_tls", "ca_file", "cert_file", "key_file", "passwd_file", "crl_file")
_EXCEPTION = ("max_retry", "retry_delay", "first_token_timeout", "infer_timeout")
LIVE_KEYS: frozenset[Path] = frozenset(
    [
        *((_DEPLOY, "tls_config", "north_tls_config", key) for key in _TLS),
        *(("north_config", key) for key in ("name", "ip", "port")),
        ("motor_controller_config", "logging_config", "log_level"),
        ("motor_controller_config", "observability_config", "observability_enable"),
        ("motor_controller_config", "observability_config", "metrics_ttl"),
        ("motor_coordinator_config", "logging_config", "log_level"),
        *(("motor_coordinator_config", "exception_config", key) for key in _EXCEPTION),
        ("motor_nodemanger_config", "logging_config", "log_level"),
    ]
)
"""What `--update_config` may change."""
_LIVE_SECTIONS: tuple[Path, ...] = (("motor_coordinator_config", "timeout_config"),)
"""Sections of which it may change every key."""


def differences(old: Any, new: Any, at: Path = ()) -> list[Path]:
    """Where two JSON values differ, down to the single key. A list whose length changes differs as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [path for key in sorted(old.keys() | new.keys()) for path in _at_key(old, new, key, at)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            path
            for index, (before, after) in enumerate(zip(old, new, strict=True))
            for path in differences(before, after, (*at, index))
        ]
    # True is 1 to Python and not to JSON.
    return [] if old == new and isinstance(old, bool) == isinstance(new, bool) else [at]


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
    others = [path for path in changed if not _live(path)]
    if others:
        raise DeployError(
            f"--update_config may not change {_listed(others)}\n"
            f"    may change: {_listed(sorted(LIVE_KEYS, key=str))}, all of {_listed(_LIVE_SECTIONS)}\n"
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


def _at_key(old: dict[str, Any], new: dict[str, Any], key: str, at: Path) -> Iterable[Path]:
    path = (*at, key)
    if key in old and key in new:
        return differences(old[key], new[key], path)
    # A section that only one side has counts key by key, since each of its keys may or may not change.
    there = old[key] if key in old else new[key]
    if isinstance(there, dict) and there:
        return differences({} if key in new else there, there if key in new else {}, path)
    return [path]


def _changes(old: Any, new: Any) -> list[Path]:
    changed = differences(old, new)
    return [path for path in changed if path != _MODE or mode_of(old) != mode_of(new)]


def mode_of(config: Any) -> Any:
    """`deploy_mode` of a `user_config.json`."""
    section = config.get(_DEPLOY) if isinstance(config, dict) else None
    return section.get("deploy_mode", _DEFAULT_MODE) if isinstance(section, dict) else _DEFAULT_MODE


def _live(path: Path) -> bool:
    return path in LIVE_KEYS or any(path[: len(section)] == section for section in _LIVE_SECTIONS)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(json_path(path) for path in paths)
