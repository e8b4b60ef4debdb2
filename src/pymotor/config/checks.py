"""What must agree between sections of `user_config.json`."""

from __future__ import annotations

from pathlib import Path

from pymotor.config.problems import Problem
from pymotor.config.user import UserConfig


def check_user(user: UserConfig, file: str, directory: Path) -> list[Problem]:
    """Every problem that no section shows alone. `directory` is where relative paths begin."""
    _ = user, file, directory
    return []
