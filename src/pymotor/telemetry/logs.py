"""Logging of PyMotor's own processes: one line for each record, to standard error, with ISO time and zone.

2026-11-21T08:00:01.123+00:00 INFO coordinator[4711] pymotor.coordinator.supervisor: worker 0 listens
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x2028: r"\u2028",
    0x2029: r"\u2029",
    ord("\n"): r"\n",
    ord("\r"): r"\r",
    ord("\t"): r"\t",
}


class LineFormatter(logging.Formatter):
    """Formats a record as one line; only a traceback adds more.

    Control characters of the message are written as escapes, so that text which came from outside cannot pass
    for a record of its own or steer a terminal.
    """

    def __init__(self, process: str) -> None:
        """`process` names the kind of process, as `coordinator`; the process id is added to it."""
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, followed by the traceback where the record has one."""
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        message = one_line(record.getMessage())
        line = f"{time} {record.levelname} {self._process}[{os.getpid()}] {record.name}: {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            line += "\n" + self.formatStack(record.stack_info)
        return line


def one_line(text: str) -> str:
    """The text with its control characters as escapes."""
    return text.translate(_CONTROL_CHARACTERS)


def configure_logging(level: str, *, process: str) -> None:
    """Send this process's log records of `level` and above to standard error.

    `level` is one of `LEVELS`, in any case, as `logging_config.log_level` has it. Called again, it replaces what
    was set before. Raises `ValueError` for another level.
    """
    name = _checked(level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(process))
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    set_log_level(name)


def set_log_level(level: str) -> None:
    """Write records of `level` and above from now on. Raises `ValueError` for one that is not in `LEVELS`."""
    name = _checked(level)
    logging.getLogger().setLevel(name)
    # A line for each request that it makes belongs to looking for faults, not to running.
    logging.getLogger("httpx").setLevel(logging.DEBUG if name == "DEBUG" else logging.WARNING)
    # Ten for each of them, of which none names PyMotor's part in it, belong to nobody's search but httpcore's own.
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def _checked(level: str) -> str:
    name = level.upper()
    if name not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    return name
