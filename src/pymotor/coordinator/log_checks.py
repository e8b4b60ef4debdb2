"""Whether the request log that a configuration asks for can be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from pymotor.config import Problem, UserConfig
from pymotor.control_plane.path_checks import is_there

_KEY = "$.motor_coordinator_config.logging_config.request_log_directory"


def check_request_log(user: UserConfig, file: str) -> Iterator[Problem]:
    """The problems, for the configuration read from `file`, which this machine is to write."""
    logs = user.motor_coordinator_config.logging_config
    directory = logs.request_log_directory
    if logs.request_log == "off" or not directory:
        return
    # The nearest part that is there: the rest is made when the first worker starts.
    there = Path(directory)
    while there != there.parent and not is_there(there):
        there = there.parent
    broken = _no_path(Path(directory))
    if broken:
        why = f"it can be no directory: {broken}"
    elif not there.is_dir():
        why = f"{there} is no directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"{there} cannot be written by this user"
    else:
        return
    yield Problem.error(file, _KEY, why, value=directory, suggestion="name a directory that this user can write")


def _no_path(path: Path) -> str:
    """Why nothing can be made there, whoever tries; empty where that is not known."""
    try:
        path.stat()
    except ValueError as error:
        return str(error)
    except OSError as error:
        return os.strerror(error.errno) if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else ""
    return ""
