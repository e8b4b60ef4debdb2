"""Both files, read and checked, with every problem at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymotor.config.checks import check_env, check_user
from pymotor.config.env import EnvConfig
from pymotor.config.problems import Problem
from pymotor.config.source import Source, read_object
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
    revisions: tuple[str, str] = ("", "")
    """Of both files, as `sha256sum` prints them; empty for one that could not be read or was not asked for."""

    @property
    def ok(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return not any(problem.severity == "error" for problem in self.problems)


def load_config(user_config_path: Path, env_config_path: Path | None, *, strict: bool = True) -> LoadedConfig:
    """Read `user_config.json` and, where there is one, `env.json`.

    With `strict` a key that PyMotor does not know is an error; a running part that may meet a newer file passes
    False and gets a warning. Never raises for what the files hold, nor for their absence: see `problems`.
    """
    user_source = read_object(user_config_path)
    user, problems = _check_user(user_source, user_config_path, strict=strict)
    if env_config_path is None:
        return LoadedConfig(user, EnvConfig(), tuple(problems), (user_source.revision, ""))
    env_source = read_object(env_config_path)
    env, env_problems = _check_env(env_source, env_config_path, strict=strict)
    return LoadedConfig(user, env, (*problems, *env_problems), (user_source.revision, env_source.revision))


def load_content(content: dict[str, Any], path: Path) -> LoadedConfig:
    """Check a `user_config.json` that was changed since it was read from `path`; unknown keys are warnings."""
    user, problems = _check_user(Source(content, ()), path, strict=False)
    return LoadedConfig(user, EnvConfig(), tuple(problems))


def _check_user(source: Source, path: Path, *, strict: bool) -> tuple[UserConfig | None, list[Problem]]:
    if source.value is None:
        return None, list(source.problems)
    user, problems = validate(UserConfig, source.value, str(path), strict=strict)
    problems = [*source.problems, *problems]
    return user, [*problems, *_news(check_user(user, str(path), path.parent), problems)]


def _check_env(source: Source, path: Path, *, strict: bool) -> tuple[EnvConfig, list[Problem]]:
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
