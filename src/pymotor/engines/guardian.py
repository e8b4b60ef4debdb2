"""A small process between PyMotor and one engine server that sees to it that nothing of the engine is left.

Engine servers start engine cores and workers in sessions of their own, which outlive a killed server and keep
its ports. The guardian is the subreaper of all of them: whoever loses its parent becomes the guardian's child, so
"no child left" means "nothing left". It ends everything when told, when the server has exited, and when the
process that started it is gone, however that ended.

Run as a script by its path (`python -I -S guardian.py COMMAND …`): only the standard library, a few megabytes,
and the engine's environment cannot change its imports.

Standard input takes one line, `stop SECONDS`; its end means that the owner is gone. Standard output gives lines:
`started PID`, `failed REASON` (nothing was started), `exited STATUS` (of the server, negative for a signal),
`empty` (everything is gone; the last line). Standard error becomes both outputs of the engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import sys
import time

ORPHANED_GRACE = 3.0
"""Seconds the engine gets to end by itself after the owner is gone."""
LONGEST_GRACE = 86400.0
TRACKER_GRACE = 2.0
"""Seconds that Python's resource trackers get, after all others, to unlink shared memory."""
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36


def process_control(option: int, value: int) -> bool:
    """Linux `prctl(option, value)`; False where there is none."""
    if not sys.platform.startswith("linux"):
        return False
    result: int = ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
    return result == 0


def start_server(command: list[str]) -> int:
    """Start the command in a session of its own; returns its process id. Raises OSError when it cannot run."""
    problem_reader, problem_writer = os.pipe()
    guardian = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            process_control(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != guardian:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            os.write(problem_writer, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(problem_writer)
    with os.fdopen(problem_reader, "rb") as problem:
        code = problem.read()
    if code:
        os.waitpid(child, 0)
        raise OSError(int(code), os.strerror(int(code)), command[0])
    return child


def descendants(root: int) -> list[int]:
    """All living processes below `root`, by /proc; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for name in names:
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def is_resource_tracker(process: int) -> bool:
    """Whether it is the process of Python's `multiprocessing` that unlinks what others leave behind."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as command:
            return b"multiprocessing.resource_tracker" in command.read()
    except OSError:
        return False


def grace_of(line: bytes) -> float:
    """The seconds of a `stop SECONDS` line; those of an orphan for the end of the pipe."""
    words = line.split()
    return min(float(words[-1]), LONGEST_GRACE) if words and words[0] == b"stop" else ORPHANED_GRACE


class Guardian:
    """One server, everything it starts, and the pipe to the owner."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.server = 0
        self.status: int | None = None
        self.selector = selectors.DefaultSelector()
        self.asked_to_end = False

    def run(self) -> int:
        """Live until nothing is left; returns the guardian's own exit status."""
        process_control(_SET_CHILD_SUBREAPER, 1)
        wakeup_reader, wakeup_writer = os.pipe()
        os.set_blocking(wakeup_reader, False)
        os.set_blocking(wakeup_writer, False)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note_signal)
        self.selector.register(wakeup_reader, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        try:
            self.server = start_server(self.command)
        except OSError as error:
            self._report(f"failed {error.strerror}: {self.command[0]}")
            return 1
        self._report(f"started {self.server}")
        grace = self._wait_for_reason()
        self._end_server(grace)
        if os.path.isdir("/proc/self"):
            self._end_everything()
        else:
            self._end_group()
        self._report("empty")
        return 0

    def _note_signal(self, *_: object) -> None:
        self.asked_to_end = True

    def _wait_for_reason(self) -> float:
        """Wait until the server exits or has to; returns the seconds it may still take."""
        while self.status is None:
            if self.asked_to_end:
                return ORPHANED_GRACE
            line = self._wait(None)
            if line is not None:
                return grace_of(line)
        return 0.0

    def _end_server(self, grace: float) -> None:
        """Ask the server to end and give it `grace` seconds."""
        if self.status is None and grace > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server, signal.SIGTERM)
        end = time.monotonic() + grace
        while self.status is None and (left := end - time.monotonic()) > 0:
            line = self._wait(left)
            if line is not None:
                end = min(end, time.monotonic() + grace_of(line))

    def _end_everything(self) -> None:
        """Kill until no child is left; a resource tracker last, because it cleans up after the others."""
        trackers_until: float | None = None
        while self._reap():
            alive = descendants(os.getpid())
            others = [process for process in alive if not is_resource_tracker(process)]
            if not others and trackers_until is None:
                trackers_until = time.monotonic() + TRACKER_GRACE
            if trackers_until is not None and time.monotonic() > trackers_until:
                others = alive
            for process in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._wait(0.05)

    def _end_group(self) -> None:
        """The same where there is neither /proc nor a subreaper: what stayed in the server's group."""
        while True:
            try:
                os.killpg(self.server, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS: EPERM when only the dead are left
                return
            self._wait(0.05)

    def _wait(self, seconds: float | None) -> bytes | None:
        """Wait for a signal or the owner's line, reap what died; returns the line, b"" when the owner is gone."""
        line: bytes | None = None
        for key, _ in self.selector.select(seconds):
            content = os.read(key.fd, 4096)
            if key.fd == 0:
                line = content
                if not content:
                    self.selector.unregister(0)
        self._reap()
        return line

    def _reap(self) -> bool:
        """Collect the dead; returns whether children are left."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            if process == self.server:
                self.status = os.waitstatus_to_exitcode(status)
                self._report(f"exited {self.status}")

    def _report(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, line.encode(errors="replace") + b"\n")


if __name__ == "__main__":
    sys.exit(Guardian(sys.argv[1:]).run())
