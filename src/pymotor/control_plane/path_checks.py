"""What this process sees at a path that somebody wrote: it may be too long, no path at all, or below a directory that
this user may not enter."""

from __future__ import annotations

import os
from pathlib import Path


def is_there(path: Path) -> bool:
    """Whether this process sees something there."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def is_file(path: Path) -> bool:
    """Whether this process sees a file there."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_directory(path: Path) -> bool:
    """Whether this process sees a directory there."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_readable(path: Path) -> bool:
    """Whether this process sees something there that it may read."""
    try:
        return os.access(path, os.R_OK)
    except ValueError:
        return False
