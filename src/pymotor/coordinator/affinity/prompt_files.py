"""Which files tell a prompt's tokens: those that the Coordinator's own keys name, else the engines'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pymotor.control_plane.path_checks import is_file, is_readable
from pymotor.coordinator.prompts.model_files import why_not
from pymotor.coordinator.prompts.text_tokens import FILE_NAME

if TYPE_CHECKING:
    from pymotor.config import UserConfig
    from pymotor.config.engine import EngineSection

_COORDINATOR = "$.motor_coordinator_config"
TOKENIZER_KEY = f"{_COORDINATOR}.scheduler_config.tokenizer_path"
MODEL_KEY = f"{_COORDINATOR}.prefill_kv_event_config.model_path"
_ROLES = ("prefill", "union")
"""Whose engines' prompts are looked for."""
_MODEL_OPTIONS = ("tokenizer", "model", "model_path")


class Place(NamedTuple):
    """What a key of the configuration names."""

    key: str
    """As problems write it."""
    named: str


def tokenizer_place(user: UserConfig, directory: Path) -> Place | None:
    """The directory whose tokenizer a worker loads; None where it loads none. What the Coordinator's own keys name
    begins at `directory`."""
    scheduler = user.motor_coordinator_config.scheduler_config
    if scheduler.tokenizer_path:
        return Place(TOKENIZER_KEY, str(directory / scheduler.tokenizer_path))
    return models_tokenizer(user, directory) if scheduler.scheduler_type == "kv_cache_affinity" else None


def models_tokenizer(user: UserConfig, directory: Path) -> Place | None:
    """The first directory with a tokenizer that this process may read, where no `tokenizer_path` is configured. What
    the Coordinator's own keys name begins at `directory`."""
    told = user.motor_coordinator_config.prefill_kv_event_config.model_path
    places = [Place(MODEL_KEY, str(directory / told))] if told else []
    role, section = _prompted(user)
    if section is not None:
        options = section.options
        places += [
            Place(_option_key(role, section, name), stated)
            for name in _MODEL_OPTIONS
            if isinstance(stated := options.get(name), str)
        ]
    return next((place for place in places if place.named and _is_usable(place.named)), None)


def template_file(user: UserConfig) -> Place | None:
    """The file with the chat template that engines are started with; None where they have the model's, or its text
    is in the configuration."""
    role, section = _prompted(user)
    stated = section.options.get("chat_template") if section is not None else None
    if section is None or not isinstance(stated, str) or not stated or "{" in stated or not is_file(Path(stated)):
        return None
    return Place(_option_key(role, section, "chat_template"), stated)


def why_no_template(file: str) -> str | None:
    """Why it cannot be read; None when it can."""
    try:
        Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        return f"the chat template {file} cannot be read: {error}"
    return None


def engines_template(user: UserConfig) -> str:
    """The text of the chat template that engines are started with in place of the model's: their option is a file, or
    the text itself. Empty where there is none, or it cannot be read (`why_no_template` says so)."""
    place = template_file(user)
    if place is not None:
        try:
            return Path(place.named).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""
    stated = prompted_options(user).get("chat_template")
    return stated if isinstance(stated, str) and "{" in stated else ""


def prompted_options(user: UserConfig) -> dict[str, Any]:
    """The options of the engines that prompts are sent to."""
    _, section = _prompted(user)
    return section.options if section is not None else {}


def _prompted(user: UserConfig) -> tuple[str, EngineSection | None]:
    for role in _ROLES:
        section = user.engine_section(role)
        if section is not None and user.instance_count(role):
            return role, section
    return "", None


def _option_key(role: str, section: EngineSection, name: str) -> str:
    return f"$.motor_engine_{role}_config.engine_config.{section.written(name)}"


def _is_usable(directory: str) -> bool:
    return why_not(directory) is None and is_readable(Path(directory) / FILE_NAME)
