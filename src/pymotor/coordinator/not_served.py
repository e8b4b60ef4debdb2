"""What a configuration asks of the Coordinator that this version does not do: told at start, never passed over.

A guard that would not stand is an error, because whoever asked for it believes the door is closed; the rest is a
warning that says what happens instead.
"""

from __future__ import annotations

from pathlib import Path

from pymotor.config import Problem, UserConfig
from pymotor.coordinator.affinity.prompt_checks import instead_of_tokenizer
from pymotor.coordinator.affinity.prompt_files import MODEL_KEY, TOKENIZER_KEY
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
    directory = Path(file).parent
    reason = why_not(str(directory / scheduler.tokenizer_path)) if scheduler.tokenizer_path else None
    if reason is not None:
        problems.append(
            Problem.error(
                file,
                TOKENIZER_KEY,
                reason,
                suggestion=instead_of_tokenizer(user),
                value=scheduler.tokenizer_path,
            )
        )
    model = user.motor_coordinator_config.prefill_kv_event_config.model_path
    if model and not scheduler.tokenizer_path and scheduler.scheduler_type == "kv_cache_affinity":
        reason = why_not(str(directory / model))
        if reason is not None:
            problems.append(
                Problem.warning(
                    file,
                    MODEL_KEY,
                    f"{reason}: prompts are read with the engines' model where this process can, else by the engines",
                    suggestion="name the directory with the model's tokenizer.json, or remove the key",
                    value=model,
                )
            )
    return problems
