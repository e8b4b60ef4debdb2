"""`env.json`: what an environment can hold."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config.env import EnvConfig, environment_string
from pymotor.config.problems import Problem, json_path


def null_characters(env: EnvConfig, file: str) -> Iterator[Problem]:
    """The operating system ends a variable at NUL."""
    for section, variables in env.sections():
        for name, value in variables.items():
            if isinstance(value, str) and "\0" in value:
                yield Problem.error(
                    file,
                    json_path((section, name)),
                    "an environment variable cannot hold the character NUL (\\u0000)",
                    suggestion="take it out",
                )


def booleans(env: EnvConfig, file: str) -> Iterator[Problem]:
    """An environment has only words: say which word a boolean becomes."""
    for section, variables in env.sections():
        for name, value in variables.items():
            if isinstance(value, bool):
                word = environment_string(value)
                yield Problem.warning(
                    file,
                    json_path((section, name)),
                    f'the variable becomes the word "{word}" (in older PyMotor "{word.capitalize()}")',
                    value=value,
                    suggestion='write the word that the program expects, in quotes: "1", "0", "true" …',
                )
