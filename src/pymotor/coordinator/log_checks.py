"""Whether the request log that a configuration asks for can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pymotor.config import Problem, UserConfig

_KEY = "$.motor_coordinator_config.logging_config.request_log_directory"


def check_request_log(user: UserConfig, file: str) -> Iterator[Problem]:
    """The problems, for the configuration read from `file`, which this machine is to write."""
    logs = user.motor_coordinator_config.logging_config
    directory = logs.request_log_directory
    if logs.request_log == "off" or not directory:
        return
    # The nearest part that is there: the rest is made when the first worker starts.
    there = Path(directory)
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        why = f"{there} is no directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"{there} cannot be written by this user"
    else:
        return
    yield Problem.error(file, _KEY, why, value=directory, suggestion="name a directory that this user can write")
