"""What a configuration asks of the Coordinator that this version does not do: told at start, never passed over.

A guard that would not stand is an error, because whoever asked for it believes the door is closed; the rest is a
warning that says what happens instead.
"""

from __future__ import annotations

from pymotor.config import Problem, UserConfig
from pymotor.coordinator.prompt_tokenizer import why_not

_COORDINATOR = "$.motor_coordinator_config"


def not_served(user: UserConfig, file: str) -> list[Problem]:
    """The problems, for the configuration read from `file`."""
    return [*_guards(user, file), *_scheduling(user, file)]


def _guards(user: UserConfig, file: str) -> list[Problem]:
    coordinator = user.motor_coordinator_config
    problems = []
    if coordinator.api_key_config.enable_api_key:
        problems.append(
            Problem.error(
                file,
                f"{_COORDINATOR}.api_key_config.enable_api_key",
                "this version of the Coordinator does not check API keys",
                suggestion="set it to false and let a proxy in front check them",
                value=True,
            )
        )
    problems += [
        Problem.error(
            file,
            f"$.motor_deploy_config.tls_config.{plane}.enable_tls",
            "this version of the Coordinator does not speak TLS",
            suggestion="set it to false and end TLS in a proxy in front",
            value=True,
        )
        for plane in ("infer_tls_config", "mgmt_tls_config", "observability_tls_config")
        if getattr(user.motor_deploy_config.tls_config, plane).enable_tls
    ]
    if coordinator.rate_limit_config.enable_rate_limit:
        problems.append(
            Problem.warning(
                file,
                f"{_COORDINATOR}.rate_limit_config.enable_rate_limit",
                "this version of the Coordinator does not limit requests",
                value=True,
            )
        )
    return problems


def _scheduling(user: UserConfig, file: str) -> list[Problem]:
    scheduler = user.motor_coordinator_config.scheduler_config
    problems = []
    reason = why_not(scheduler.tokenizer_path) if scheduler.tokenizer_path else None
    if reason is not None:
        problems.append(
            Problem.error(
                file,
                f"{_COORDINATOR}.scheduler_config.tokenizer_path",
                reason,
                suggestion="without the key prompts are estimated",
                value=scheduler.tokenizer_path,
            )
        )
    if scheduler.scheduler_type == "kv_cache_affinity":
        problems.append(
            Problem.warning(
                file,
                f"{_COORDINATOR}.scheduler_config.scheduler_type",
                "KV-cache affinity is not there yet: load_balance is used",
                value=scheduler.scheduler_type,
            )
        )
    return problems
