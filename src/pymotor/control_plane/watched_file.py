"""A file that others write and that is read again whenever it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

logger = logging.getLogger(__name__)

Content = TypeVar("Content")


class WatchedFile(Generic[Content]):
    """Looks whether a file has changed. It may come later, go and be broken for a while: each such state is logged
    once, and what was read last stands."""

    def __init__(self, path: Path, decode: Callable[[bytes], Content], title: str, content: str, subject: str) -> None:
        """`decode` raises `msgspec.DecodeError`. `title`, `content` and `subject` are for the log, as in "fleet file …
        holds no snapshot; the last known fleet stands"."""
        self._path = path
        self._decode = decode
        self._title = title
        self._content = content
        self._subject = subject
        self._seen: tuple[int, int, int] | None = None
        self._complaint = ""

    def read_if_changed(self) -> Content | None:
        """What is in it, where that is new and can be read."""
        try:
            status = self._path.stat()
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            if signature == self._seen:
                return None
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._seen = None
            self._complain(f"does not exist; the last known {self._subject} stands until it does")
            return None
        except OSError as error:
            self._seen = None
            self._complain(f"cannot be read: {error}; the last known {self._subject} stands")
            return None
        self._seen = signature
        try:
            content = self._decode(data)
        except msgspec.DecodeError as error:  # ValidationError is one of these
            self._complain(f"holds no {self._content}: {error}; the last known {self._subject} stands")
            return None
        self._complaint = ""
        return content

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("%s %s %s", self._title, self._path, complaint)
