"""What a configuration asks of the Coordinator that this version does not do: told at start, never passed over.

A guard that would not stand is an error, because whoever asked for it believes the door is closed; the rest is a
warning that says what happens instead.
"""

from __future__ import annotations

from pymotor.config import Problem, UserConfig
from pymotor.coordinator.prompts.model_files import why_not

_COORDINATOR = "$.motor_coordinator_config"


def not_served(user: UserConfig, file: str) -> list[Problem]:
    """The problems, for the configuration read from `file`."""
    return [*_guards(user, file), *_scheduling(user, file)]


def _guards(user: UserConfig, file: str) -> list[Problem]:
    coordinator = user.motor_coordinator_config
    problems = []
    limits = coordinator.rate_limit_config
    if limits.enable_rate_limit and limits.provider == "olc":
        problems.append(
            Problem.warning(
                file,
                f"{_COORDINATOR}.rate_limit_config.provider",
                "olc rules are not read: max_requests and the keys beside it decide",
                value=limits.provider,
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
    return problems
