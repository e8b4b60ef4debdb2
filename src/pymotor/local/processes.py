"""Processes by pid and start time, so that a pid the kernel has given to somebody else is never signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

_POLL_SECONDS = 0.05


class ProcessIdentity(msgspec.Struct, frozen=True):
    """One process of this machine, told apart from a later one with the same pid."""

    pid: int
    started: int | None = None
    """Clock ticks after boot; None where the system has no /proc."""


def identify(pid: int) -> ProcessIdentity:
    """The process that has this pid now."""
    return ProcessIdentity(pid, _start_time(pid))


def is_alive(process: ProcessIdentity) -> bool:
    """Whether it still runs; a zombie that nobody has reaped yet does not count."""
    if Path("/proc/self/stat").exists():
        return process.started is not None and _start_time(process.pid) == process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def terminate(process: ProcessIdentity, grace: float) -> bool:
    """SIGTERM, and SIGKILL when it still runs after `grace` seconds; returns whether SIGTERM was enough."""
    _signal(process, signal.SIGTERM)
    if wait_gone([process], grace):
        return True
    _signal(process, signal.SIGKILL)
    wait_gone([process], 5.0)
    return False


def kill_groups(leaders: Iterable[ProcessIdentity]) -> None:
    """SIGKILL to the process group of each leader that still runs; returns when all are gone (5 s at most)."""
    alive = [leader for leader in leaders if is_alive(leader)]
    for leader in alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGKILL)
    wait_gone(alive, 5.0)


def wait_gone(processes: Iterable[ProcessIdentity], seconds: float) -> bool:
    """Wait until none of them runs; False when one still does after so many seconds."""
    remaining = list(processes)
    deadline = time.monotonic() + seconds
    while True:
        remaining = [process for process in remaining if is_alive(process)]
        if not remaining:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _signal(process: ProcessIdentity, number: signal.Signals) -> None:
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)), or None when there is no such process or it is a zombie."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = content[content.rindex(b")") + 2 :].split()
    state, start = fields[0], fields[19]
    return None if state in (b"Z", b"X") else int(start)
