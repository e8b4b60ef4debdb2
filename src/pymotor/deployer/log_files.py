"""The log of one run of one pod in a file that does not grow without end."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType

_UNSAFE = re.compile(r"[^A-Za-z0-9.-]")


def file_name(pod: str, node: str, retry: int) -> str:
    """`<pod>_<node>_<retry>.log`."""
    return f"{_UNSAFE.sub('-', pod)}_{_UNSAFE.sub('-', node) or 'no-node'}_{retry}.log"


class RotatingFile:
    """Lines into a file; before it gets too long it becomes `name.1`, that `name.2`, and so on."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        """Appends where the file is there. Raises `OSError`."""
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size

    def write(self, line: bytes) -> None:
        """Write a line at once: others follow the file. Raises `OSError`."""
        if self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        self._file.write(line)
        self._size += len(line)

    def __enter__(self) -> RotatingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        if self._backups == 0:
            self._path.unlink()
        for number in range(self._backups, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                os.replace(source, self._numbered(number))
        self._file = self._path.open("ab", buffering=0)
        self._size = 0

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path
