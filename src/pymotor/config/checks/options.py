"""Engine options, as far as PyMotor itself reads them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pymotor.config.engine import (
    SGLANG_OPTIONS,
    SGLANG_SIZES,
    VLLM_OPTIONS,
    VLLM_SIZES,
    EngineSection,
    option_name,
    positive_integer,
)
from pymotor.config.problems import Problem, json_path
from pymotor.config.user import ROLES, UserConfig


def _sections(user: UserConfig) -> Iterator[tuple[str, EngineSection]]:
    for role in ROLES:
        section = user.engine_section(role)
        if section is not None:
            yield f"motor_engine_{role}_config", section


def engine_type(user: UserConfig, file: str) -> Iterator[Problem]:
    """Without an engine type it is vLLM."""
    for key, section in _sections(user):
        if "engine_type" not in section.model_fields_set:
            yield Problem.warning(
                file,
                json_path((key, "engine_type")),
                "missing: vllm is assumed",
                allowed="one of vllm, sglang, sim",
                suggestion='write "engine_type": "vllm"',
            )


def spellings(user: UserConfig, file: str) -> Iterator[Problem]:
    """Hyphens and underscores are one: an option stands once."""
    for section_key, section in _sections(user):
        first: dict[str, str] = {}
        for key, value in section.engine_config.items():
            name = option_name(key)
            other = first.setdefault(name, key)
            if other == key:
                continue
            path = json_path((section_key, "engine_config", key))
            if section.engine_config[other] == value:
                yield Problem.warning(file, path, f"the same option as {other}", value=value, suggestion="remove one")
            else:
                yield Problem.error(
                    file,
                    path,
                    f"the same option as {other}, with another value",
                    value=value,
                    suggestion="remove one",
                )


def old_model_config(user: UserConfig, file: str) -> Iterator[Problem]:
    """The old `model_config` still counts, where `engine_config` does not say otherwise."""
    for key, section in _sections(user):
        if section.deprecated_model_config is None:
            continue
        yield Problem.warning(
            file,
            json_path((key, "model_config")),
            "deprecated; what engine_config says counts",
            suggestion="move it to engine_config: " + ", ".join(section.deprecated_options()),
        )
        said = {option_name(name): value for name, value in section.engine_config.items()}
        for name, value in section.deprecated_options().items():
            if name in said and said[name] != value:
                yield Problem.warning(
                    file,
                    json_path((key, "engine_config", section.written(name))),
                    f"model_config says otherwise ({value}); this counts",
                    value=said[name],
                )


def parallel_sizes(user: UserConfig, file: str) -> Iterator[Problem]:
    """Sizes are positive numbers; digits in quotes are accepted, as on a command line."""
    for section_key, section in _sections(user):
        names = SGLANG_SIZES if section.engine_type == "sglang" else VLLM_SIZES
        for key, value in section.engine_config.items():
            if option_name(key) in names and positive_integer(value) is None:
                yield Problem.error(
                    file,
                    json_path((section_key, "engine_config", key)),
                    "not a parallel size",
                    value=value,
                    allowed="an integer, 1 or more",
                )


def likely_typos(user: UserConfig, file: str) -> Iterator[Problem]:
    """Any option passes through, but one that is nearly an option PyMotor reads is probably that one."""
    for section_key, section in _sections(user):
        known = SGLANG_OPTIONS if section.engine_type == "sglang" else VLLM_OPTIONS
        for key, value in section.engine_config.items():
            name = option_name(key)
            if name in known or name.startswith("no_"):
                continue
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.92)
            if not close and "model" not in section.options:
                close = difflib.get_close_matches(name, ["model"], cutoff=0.75)
            if close:
                yield Problem.warning(
                    file,
                    json_path((section_key, "engine_config", key)),
                    "passed to the engine as it is",
                    value=value,
                    suggestion=f"did you mean {close[0]}?",
                )
