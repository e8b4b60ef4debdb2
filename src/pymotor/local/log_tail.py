"""The end of a log file, without reading the rest."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK = 65536


def last_lines(path: Path, number: int) -> list[str]:
    """The last `number` lines; none when there is no such file."""
    try:
        with open(path, "rb") as file:
            position = file.seek(0, os.SEEK_END)
            content = b""
            while position > 0 and content.count(b"\n") <= number:
                step = min(_BLOCK, position)
                position -= step
                file.seek(position)
                content = file.read(step) + content
    except FileNotFoundError:
        return []
    lines = content.decode(errors="replace").splitlines()
    return lines[-number:] if number > 0 else []
