"""What must hold in `env.json` beside the types."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config.env import EnvConfig
from pymotor.config.problems import Problem, json_path


def check_env(env: EnvConfig, file: str) -> list[Problem]:
    """Every problem that the types alone do not show."""
    return [*_null_characters(env, file), *_booleans(env, file)]


def _null_characters(env: EnvConfig, file: str) -> Iterator[Problem]:
    for section, variables in env.sections():
        for name, value in variables.items():
            if isinstance(value, str) and "\0" in value:
                yield Problem.error(
                    file,
                    json_path((section, name)),
                    "an environment variable cannot hold the character NUL (\\u0000)",
                    suggestion="take it out",
                )


def _booleans(env: EnvConfig, file: str) -> Iterator[Problem]:
    for section, variables in env.sections():
        for name, value in variables.items():
            if isinstance(value, bool):
                word = "true" if value else "false"
                yield Problem.warning(
                    file,
                    json_path((section, name)),
                    f'the variable becomes the word "{word}" (older PyMotor: "{word.capitalize()}")',
                    value=value,
                    suggestion='write the word in quotes as the program reads it, as "1", "0" or "true"',
                )
