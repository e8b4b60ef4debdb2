"""A user's `user_config.json` that changes while its fleet runs on this machine: handed on to the fleet's processes.

They read a copy of their own, in which `--engine` may have replaced much. What all of them take up while they run is
copied into it, and they see it there; all else waits for the next `pymotor up`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

from pymotor.config import LiveConfig, LoadedConfig, NotAppliedError, Part, UserConfig, follow
from pymotor.config.live import ConfigState, copy_keys, written
from pymotor.config.live_keys import taken_by
from pymotor.local.events import Event, Note
from pymotor.local.request import UpRequest
from pymotor.local.state import write_atomically

_SEVERITIES = {logging.WARNING: "warning", logging.ERROR: "error"}


async def hand_on_changes(
    request: UpRequest,
    loaded: LoadedConfig,
    copy: Path,
    show: Callable[[Event], None],
    changed: Callable[[ConfigState], None],
) -> None:
    """Until cancelled. `loaded`: the files of `request` as they were at the start; `copy`: what the processes read;
    `changed` hears which configuration is in force, at once and whenever that changes."""

    def tell(level: int, words: str) -> None:
        show(Note(words, severity=_SEVERITIES.get(level, "info")))

    async def apply(user: UserConfig) -> None:
        await asyncio.to_thread(_rewrite, copy, user)

    config = LiveConfig(request.user_config_path, request.env_config_path, loaded, Part.UP, tell=tell)
    changed(config.state)
    await follow(config, apply, changed=changed)


def _rewrite(copy: Path, user: UserConfig) -> None:
    """Raises `NotAppliedError`."""
    try:
        content = json.loads(copy.read_bytes())
        copy_keys(taken_by(Part.UP), written(user), content)
        write_atomically(copy, json.dumps(content, indent=2).encode())
    except (OSError, ValueError) as error:
        raise NotAppliedError(f"the processes cannot be told, since {copy} cannot be changed: {error}") from error
