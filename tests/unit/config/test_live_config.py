"""A part's look at its files: what it takes up, what waits for a restart, what is refused, and how all is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pymotor.config import LiveConfig, NotAppliedError, Part, Problem, UserConfig, follow, load_config
from pymotor.config.live import ConfigChange
from worker_in_process import until

EXCEPTIONS = "exception_config"


def content(**coordinator: Any) -> dict[str, Any]:
    engine = {"engine_type": "sim", "engine_config": {"model": "m"}}
    return {
        "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu"},
        "motor_engine_union_config": engine,
        "motor_coordinator_config": coordinator,
    }


class Files:
    """`user_config.json` and `env.json` of one part."""

    def __init__(self, directory: Path, part: Part = Part.COORDINATOR, check: Any = None) -> None:
        self.user, self.env = directory / "user_config.json", directory / "env.json"
        self.write(content(exception_config={"max_retry": 2}))
        self.env.write_text("{}")
        more = {} if check is None else {"check": check}
        env = self.env if part is Part.NODE_MANAGER else None
        self.live = LiveConfig(self.user, env, load_config(self.user, env), part, clock=lambda: 7.0, **more)

    def write(self, new: dict[str, Any] | str) -> None:
        written = self.user.with_suffix(".new")
        written.write_text(new if isinstance(new, str) else json.dumps(new))
        written.replace(self.user)

    def look(self) -> ConfigChange | None:
        change = self.live.look()
        if change is not None:
            self.live.taken(change)
        return change

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.user.read_bytes()).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def retries(user: UserConfig) -> int:
    return user.motor_coordinator_config.exception_config.max_retry


def test_nothing_new_is_nothing(files: Files) -> None:
    assert files.look() is None
    assert files.live.state.revision == files.digest
    assert files.live.state.taken == 0


def test_a_live_key_is_taken_up(files: Files) -> None:
    files.write(content(exception_config={"max_retry": 3}))
    change = files.look()
    assert change is not None
    assert retries(change.user) == 3
    assert change.paths == ("$.motor_coordinator_config.exception_config.max_retry",)
    assert (files.live.state.revision, files.live.state.needs_restart) == (files.digest, ())


def test_a_key_that_is_gone_is_its_default_again(files: Files) -> None:
    files.write(content())
    change = files.look()
    assert change is not None
    assert retries(change.user) == 5


def test_what_is_written_otherwise_changes_nothing(files: Files) -> None:
    files.write(json.dumps(content(exception_config={"retry_delay": 0.2, "max_retry": 2}), indent=8))
    change = files.look()
    assert change is not None
    assert (change.paths, change.needed) == ((), False)
    assert files.live.state.revision == files.digest


def test_other_keys_wait_for_a_restart_and_do_not_change(files: Files) -> None:
    new = content(exception_config={"max_retry": 3}, scheduler_config={"deploy_mode": "cpcd_separate"})
    new["motor_engine_union_config"]["engine_config"]["model"] = "other"
    files.write(new)
    change = files.look()
    assert change is not None
    assert retries(change.user) == 3
    assert change.user.motor_coordinator_config.scheduler_config.deploy_mode is None
    assert files.live.state.needs_restart == ("$.motor_coordinator_config.scheduler_config.deploy_mode",)
    files.write(content(exception_config={"max_retry": 3}))
    files.look()
    assert files.live.state.needs_restart == ()


def test_a_part_leaves_to_others_what_is_theirs(tmp_path: Path) -> None:
    files = Files(tmp_path, Part.CONTROLLER)
    files.write(content(exception_config={"max_retry": 3}, scheduler_config={"deploy_mode": "cpcd_separate"}))
    change = files.look()
    assert change is not None
    assert (change.paths, files.live.state.needs_restart) == ((), ())


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ('{"motor_deploy_config": ', "was expected"),
        (json.dumps(content(exception_config={"max_retry": -1})), "max_retry"),
        ("", "empty"),
    ],
)
def test_a_broken_file_changes_nothing_and_is_told_once(
    files: Files, caplog: pytest.LogCaptureFixture, broken: str, told: str
) -> None:
    before = files.live.state.revision
    files.write(broken)
    assert files.look() is None
    assert files.live.state.error is None, "it may be half written: it is looked at again"
    for _ in range(4):
        assert files.look() is None
    state = files.live.state
    assert state.error is not None
    assert told in state.error.message
    assert (state.error.revision, state.error.since) == (files.digest, 7.0)
    assert (state.revision, state.refused) == (before, 1)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1
    files.write(content(exception_config={"max_retry": 4}))
    change = files.look()
    assert change is not None
    assert retries(change.user) == 4
    assert files.live.state.error is None


def test_a_file_that_is_gone_is_told(files: Files) -> None:
    files.user.unlink()
    files.look()
    files.look()
    assert files.live.state.error is not None
    assert "does not exist" in files.live.state.error.message


def test_the_parts_own_checks_count(tmp_path: Path) -> None:
    def check(user: UserConfig, file: str) -> list[Problem]:
        return [Problem.error(file, "$.x", "never so many")] if retries(user) > 8 else []

    files = Files(tmp_path, check=check)
    files.write(content(exception_config={"max_retry": 9}))
    files.look()
    files.look()
    assert files.live.state.error is not None
    assert "never so many" in files.live.state.error.message


def test_a_symbolic_link_that_is_swapped_is_seen(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: a link into ..data, which is a link to the newest directory."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}/user_config.json").write_text(
            json.dumps(content(exception_config={"max_retry": number}))
        )
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "user_config.json"
    path.symlink_to("..data/user_config.json")
    live = LiveConfig(path, None, load_config(path, None), Part.COORDINATOR)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    change = live.look()
    assert change is not None
    assert retries(change.user) == 2


def test_the_environment_waits_for_a_restart(tmp_path: Path) -> None:
    files = Files(tmp_path, Part.NODE_MANAGER)
    files.env.write_text('{"motor_common_env": {"A_TOKEN": "not to be seen"}}')
    files.look()
    assert files.live.state.needs_restart == ("env.json: $.motor_common_env.A_TOKEN",)


async def test_what_a_part_cannot_take_up_is_told_and_taken_back_whole(files: Files) -> None:
    seen: list[int] = []

    async def apply(user: UserConfig) -> None:
        seen.append(retries(user))
        if retries(user) == 3:
            raise NotAppliedError("the port is taken")

    following = asyncio.create_task(follow(files.live, apply, 0.01))
    try:
        files.write(content(exception_config={"max_retry": 3}))
        await until(lambda: files.live.state.error is not None, "it is told")
        assert files.live.state.error is not None
        assert files.live.state.error.message == "the port is taken"
        files.write(content(exception_config={"max_retry": 2}))
        await until(lambda: files.live.state.error is None, "it is good again")
        assert seen == [3, 2], "a half of it was in force: what was before is told again"
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
