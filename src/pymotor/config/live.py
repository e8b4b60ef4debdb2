"""The configuration of a running part: its files are looked at again and again, and what may change is taken up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pymotor.config.differences import differences
from pymotor.config.env import EnvConfig
from pymotor.config.live_keys import LiveKey, Part, read_at_start, taken_by
from pymotor.config.load import LoadedConfig, load_config, load_content
from pymotor.config.problems import Problem, json_path
from pymotor.config.section import keys_without_effect
from pymotor.config.source import revision_of
from pymotor.config.user import ROLES, UserConfig

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at the files."""
_PROBLEMS_TOLD = 5


class NotAppliedError(Exception):
    """A part cannot do what its new configuration says; the message says why and what to do."""


class ConfigError(msgspec.Struct, frozen=True, kw_only=True):
    """Why the newest content of the files is not in force."""

    message: str
    revision: str
    """Of the `user_config.json` that was refused; empty where it could not be read."""
    since: float
    """Seconds since 1970."""


class ConfigState(msgspec.Struct, frozen=True, kw_only=True):
    """What a part runs with; the answer to `GET /config`."""

    file: str
    """`user_config.json`; empty where the part was started without one."""
    revision: str
    """Of the file that is in force: its SHA-256, as `sha256sum` prints it."""
    since: float
    """When it came into force, in seconds since 1970."""
    needs_restart: tuple[str, ...] = ()
    """Keys that differ from those the part was started with and that it reads only then."""
    error: ConfigError | None = None
    taken: int = 0
    """Revisions that came into force since the start."""
    refused: int = 0
    """Contents that were refused."""


class ConfigChange(NamedTuple):
    """What one look has found."""

    user: UserConfig
    """As the part was started with, but for the keys that it takes up."""
    paths: tuple[str, ...]
    """The keys that it takes up now."""
    needed: bool
    """Whether the part does not run with all of it yet."""


class LiveConfig:
    """The files of one part. `look` is not to be called by two at a time."""

    def __init__(
        self,
        user_path: Path,
        env_path: Path | None,
        started: LoadedConfig,
        part: Part,
        *,
        check: Callable[[UserConfig, str], list[Problem]] = lambda user, file: [],  # noqa: ARG005  no further checks
        roles: Iterable[str] = ROLES,
        tell: Callable[[int, str], None] = lambda level, words: logger.log(level, "%s", words),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`started`: what the part has read of these files at its start; errors that it put up with then count no more
        later. `check`: what it checks beside. `roles`: those that its engines may have. `env_path`: None where the part
        does not read `env.json`. `tell` gets what is worth knowing, with a level of `logging`; by default the log."""
        assert started.user is not None
        self._paths = (user_path, env_path)
        self._part = part
        self._check = check
        self._roles = tuple(roles)
        self._tell = tell
        self._clock = clock
        self._started = started.user
        self._started_env = started.env
        self._running = started.user
        self._torn = False
        """Whether the part runs with a half of what was last found."""
        self._judged = started.revisions if env_path is not None else (started.revisions[0], "")
        """The newest contents of both files that were found good or bad."""
        self._doubted: tuple[str, str] | None = None
        """Contents found bad at the last look only: they may be half written."""
        self._told = frozenset(map(str, [*started.problems, *check(started.user, str(user_path))]))
        self.state = ConfigState(file=str(user_path), revision=started.revisions[0], since=clock())

    def look(self) -> ConfigChange | None:
        """Read and check the files if they are others than at the last look. Returns what the part has to take up
        before it calls `taken`; None where there is nothing. Never raises for what the files hold."""
        found = (_revision(self._paths[0]), _revision(self._paths[1]))
        if found == self._judged:
            self._doubted = None
            return None
        loaded = load_config(*self._paths, strict=False)
        problems = self._problems(loaded)
        if problems and self._doubted != loaded.revisions:
            self._doubted = loaded.revisions
            return None
        self._doubted, self._judged = None, loaded.revisions
        if problems or loaded.user is None:
            self._refuse(problems, loaded.revisions[0])
            return None
        return self._accept(loaded, loaded.user)

    def taken(self, change: ConfigChange) -> None:
        """The part runs with it."""
        self._running, self._torn = change.user, False
        state = self.state
        self.state = msgspec.structs.replace(
            state, revision=self._judged[0], since=self._clock(), error=None, taken=state.taken + 1
        )
        self._tell(logging.INFO, f"{self._named} is in force: {_listed(change.paths) or 'as before'}")

    def not_taken(self, why: str) -> None:
        """The part could not take all of it up; what it could is in force."""
        self._torn = True
        self._refuse([why], self._judged[0])

    def _problems(self, loaded: LoadedConfig) -> list[str]:
        """The errors in words; what is merely doubtful goes to the log, once."""
        found = list(loaded.problems)
        if loaded.user is not None:
            found += self._check(loaded.user, str(self._paths[0]))
            if not any(problem.severity == "error" and str(problem) not in self._told for problem in found):
                found += self._problems_together(loaded.user)
        new = [problem for problem in found if str(problem) not in self._told]
        errors = [str(problem) for problem in new if problem.severity == "error"]
        if not errors:
            for warning in new:
                self._tell(logging.WARNING, str(warning))
            self._told |= frozenset(map(str, new))
        return errors

    def _problems_together(self, new: UserConfig) -> list[Problem]:
        """Whether what is taken up goes with what is not."""
        merged = load_content(self._merged(new), self._paths[0])
        return [problem for problem in merged.problems if problem.severity == "error"]

    @property
    def _named(self) -> str:
        return f"{self.state.file} {self._judged[0][:12]}"

    def _accept(self, loaded: LoadedConfig, new: UserConfig) -> ConfigChange:
        user = load_content(self._merged(new), self._paths[0]).user
        assert user is not None
        waiting = self._needs_restart(new, loaded.env)
        if waiting and waiting != self.state.needs_restart:
            self._tell(logging.WARNING, f"{self._named}: needs a restart of this part: {_listed(waiting)}")
        self.state = msgspec.structs.replace(self.state, needs_restart=waiting)
        changed = differences(_effective(self._running), _effective(user))
        return ConfigChange(user, tuple(json_path(path) for path in changed), bool(changed) or self._torn)

    def _needs_restart(self, new: UserConfig, env: EnvConfig) -> tuple[str, ...]:
        changed = differences(_effective(self._started), _effective(new))
        paths = [json_path(path) for path in changed if read_at_start(self._part, path, self._roles)]
        env_changed = differences(written(self._started_env), written(env)) if self._paths[1] is not None else []
        return (*paths, *(f"env.json: {json_path(path)}" for path in env_changed))

    def _merged(self, new: UserConfig) -> dict[str, Any]:
        """The JSON that the part was started with, with the keys of `new` that it takes up."""
        merged, source = written(self._started), written(new)
        copy_keys(taken_by(self._part), source, merged)
        return merged

    def _refuse(self, why: list[str], revision: str) -> None:
        message = "\n".join(why[:_PROBLEMS_TOLD])
        if len(why) > _PROBLEMS_TOLD:
            message += f"\nand {len(why) - _PROBLEMS_TOLD} more; `pymotor validate` tells all"
        error = ConfigError(message=message, revision=revision, since=self._clock())
        self.state = msgspec.structs.replace(self.state, error=error, refused=self.state.refused + 1)
        self._tell(logging.ERROR, f"the new configuration is not in force, {self.state.revision[:12]} stays: {message}")


async def follow(
    config: LiveConfig,
    apply: Callable[[UserConfig], Awaitable[None]],
    interval: float = LOOK_SECONDS,
    changed: Callable[[ConfigState], None] | None = None,
) -> None:
    """Look every `interval` seconds until cancelled, and have `apply` take up what has changed. It is called with the
    whole configuration to run with from now on, and may raise `NotAppliedError`. `changed` hears of each new state."""
    while True:
        await asyncio.sleep(interval)
        before = config.state
        change = await asyncio.to_thread(config.look)
        if change is not None:
            await _take_up(config, change, apply)
        if changed is not None and config.state is not before:
            changed(config.state)


async def _take_up(config: LiveConfig, change: ConfigChange, apply: Callable[[UserConfig], Awaitable[None]]) -> None:
    try:
        if change.needed:
            await apply(change.user)
    except NotAppliedError as error:
        config.not_taken(str(error))
    except Exception as error:  # a part that runs well must not end for a configuration that it cannot take up
        logger.exception("the new configuration could not be taken up")
        config.not_taken(f"a mistake of PyMotor, see the log: {error!r}; restart the part to take it up")
    else:
        config.taken(change)


def copy_keys(keys: Iterable[LiveKey], source: dict[str, Any], target: dict[str, Any]) -> None:
    """Make these keys of `target` what they are in `source`, both the JSON of a `user_config.json`. Keys of a role's
    engines are left out where `target` has none of that role."""
    for key in keys:
        _copy(key.path, source, target)


def _revision(path: Path | None) -> str:
    """Empty for a file that is not there; then loading it says why."""
    if path is None:
        return ""
    try:
        return revision_of(path.read_bytes())
    except OSError:
        return ""


def written(config: UserConfig | EnvConfig) -> dict[str, Any]:
    """The JSON of a configuration as it was written, without what is only assumed."""
    content: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return content


def _effective(user: UserConfig) -> dict[str, Any]:
    """The JSON with every default, without what has no effect."""
    content: dict[str, Any] = user.model_dump(mode="json", by_alias=True)
    for path in [("$schema",), ("version",), *(path for path, *_ in keys_without_effect(user))]:
        holder = _holder(content, path)
        if holder is not None:
            holder.pop(path[-1], None)
    return content


def _holder(content: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The object that a path ends in; None where there is none."""
    found: Any = content
    for step in path[:-1]:
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _copy(path: tuple[str, ...], source: dict[str, Any], target: dict[str, Any]) -> None:
    if path[0].startswith("motor_engine_") and not target.get(path[0]):
        return
    theirs = _holder(source, path)
    if theirs is None or path[-1] not in theirs:
        ours = _holder(target, path)
        if ours is not None:
            ours.pop(path[-1], None)
        return
    for step in path[:-1]:
        target = target.setdefault(step, {})
    target[path[-1]] = theirs[path[-1]]


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(paths)
