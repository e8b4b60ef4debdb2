"""Lines written by a thread of their own, to standard error or to files that rotate; whoever hands them over never
waits. A line for which there is no room in the queue is dropped and counted."""

from __future__ import annotations

import contextlib
import gzip
import logging
import logging.handlers
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

logger = logging.getLogger(__name__)

QUEUED = 10_000
"""Entries that may wait for the thread."""
_AT_ONCE = 256
"""Lines that are written together."""
_END_SECONDS = 2.0
Entry = TypeVar("Entry")


class RotatingFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A file and how it rotates; sizes in bytes."""

    path: str
    size: int
    kept: int
    """Old files beside it, at least one."""
    compress_level: int | None
    """Of gzip for old files; None: they stay as they are."""


class LineWriter(Generic[Entry]):
    """Takes entries and has them written as lines; `close` it."""

    def __init__(
        self,
        files: RotatingFiles | None,
        format_line: Callable[[Entry], str],
        *,
        overflowed: Callable[[], None],
        failed: Callable[[int], None],
    ) -> None:
        """`files`: None for standard error. `format_line` makes the line, without its end, in the thread.
        `overflowed` is called for an entry that found no room, `failed`, by the thread, with the number of lines that
        could not be written. Raises `OSError` when the file cannot be opened."""
        self._format_line = format_line
        self._overflowed = overflowed
        self._failed = failed
        self._handler: logging.Handler = _Raising(sys.stderr) if files is None else _RotatingHandler(files)
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._failing = False
        # A write that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._write_all, name="line-writer", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Have this written soon."""
        if self._queue.qsize() < QUEUED:
            self._queue.put(entry)
        else:
            self._overflowed()

    def close(self) -> None:
        """Write what waits, for two seconds at most, and close the file."""
        self._queue.put(None)
        self._thread.join(_END_SECONDS)

    def _write_all(self) -> None:
        over = False
        while not over:
            entries = self._batch()
            over = entries[-1] is None
            lines = [self._format_line(entry) for entry in entries if entry is not None]
            if lines:
                self._write(lines)
        try:
            self._handler.close()
        except OSError as error:
            logger.error("the last lines cannot be written: %s", error)

    def _batch(self) -> list[Entry | None]:
        """What waits, one entry at least; None, if it is among them, is the last."""
        entries = [self._queue.get()]
        while entries[-1] is not None and len(entries) < _AT_ONCE and not self._queue.empty():
            entries.append(self._queue.get())
        return entries

    def _write(self, lines: list[str]) -> None:
        try:
            self._handler.handle(logging.makeLogRecord({"msg": "\n".join(lines)}))
        except (OSError, ValueError) as error:
            self._failed(len(lines))
            if not self._failing:
                logger.error("lines cannot be written and are dropped until they can: %s", error)
            self._failing = True
        else:
            self._failing = False


class _Raising(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  logging's signature
        raise


class _RotatingHandler(logging.handlers.RotatingFileHandler):
    def __init__(self, files: RotatingFiles) -> None:
        Path(files.path).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(files.path, maxBytes=files.size, backupCount=files.kept, encoding="utf-8")
        self._level = files.compress_level
        if self._level is not None:
            self.namer = lambda name: f"{name}.gz"
            self.rotator = self._compress

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  logging's signature
        raise

    def _compress(self, source: str, destination: str) -> None:
        if not os.path.exists(source):
            return
        with open(source, "rb") as whole, gzip.open(destination, "wb", self._level or 0) as packed:
            shutil.copyfileobj(whole, packed)
        with contextlib.suppress(FileNotFoundError):
            os.remove(source)
