"""Both files, read and checked, with every problem at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pymotor.config.checks import check_env, check_user
from pymotor.config.env import EnvConfig
from pymotor.config.problems import Problem
from pymotor.config.source import read_object
from pymotor.config.user import UserConfig
from pymotor.config.validation import validate


@dataclass(frozen=True)
class LoadedConfig:
    """What the files say, as far as it is right, and what is not."""

    user: UserConfig | None
    """None when the file holds no JSON object. Where there are errors, defaults stand in for wrong values:
    good for further checks, not for starting anything."""
    env: EnvConfig
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return not any(problem.severity == "error" for problem in self.problems)


def load_config(user_config_path: Path, env_config_path: Path | None, *, strict: bool = True) -> LoadedConfig:
    """Read `user_config.json` and, where there is one, `env.json`.

    With `strict` a key that PyMotor does not know is an error; a running part that may meet a newer file passes
    False and gets a warning. Never raises for what the files hold, nor for their absence: see `problems`.
    """
    user, problems = _load_user(user_config_path, strict=strict)
    if env_config_path is None:
        return LoadedConfig(user, EnvConfig(), tuple(problems))
    env, env_problems = _load_env(env_config_path, strict=strict)
    return LoadedConfig(user, env, (*problems, *env_problems))


def _load_user(path: Path, *, strict: bool) -> tuple[UserConfig | None, list[Problem]]:
    source = read_object(path)
    if source.value is None:
        return None, list(source.problems)
    user, problems = validate(UserConfig, source.value, str(path), strict=strict)
    problems = [*source.problems, *problems]
    return user, [*problems, *_news(check_user(user, str(path), path.parent), problems)]


def _load_env(path: Path, *, strict: bool) -> tuple[EnvConfig, list[Problem]]:
    source = read_object(path)
    if source.value is None:
        return EnvConfig(), list(source.problems)
    env, problems = validate(EnvConfig, source.value, str(path), strict=strict)
    problems = [*source.problems, *problems]
    return env, [*problems, *_news(check_env(env, str(path)), problems)]


def _news(found: list[Problem], told: list[Problem]) -> list[Problem]:
    """The problems found that do not merely follow from an error at, above or below the same place."""
    broken = [problem.path for problem in told if problem.severity == "error"]
    return [problem for problem in found if not any(_related(problem.path, path) for path in broken)]


def _related(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return longer == shorter or (longer.startswith(shorter) and longer[len(shorter)] in ".[")
