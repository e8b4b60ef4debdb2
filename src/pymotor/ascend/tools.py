"""Run `npu-smi` and `hccn_tool`: no shell, a deadline, bounded output, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

HCCN_TOOL_PATH = "HCCN_TOOL_PATH"
"""Environment variable that vllm-ascend's own script reads for the path of `hccn_tool`."""

INSTALLED_TOOLS = {
    "hccn_tool": "/usr/local/Ascend/driver/tools/hccn_tool",
    "npu-smi": "/usr/local/sbin/npu-smi",
}
DEFAULT_TIMEOUT = 30.0
MAX_OUTPUT = 1 << 20
_ENDING = frozenset((signal.SIGTERM, signal.SIGINT))
_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05
"""Seconds between two looks at a tool that runs."""
_KILLED_SECONDS = 5.0
"""For which a killed tool is waited for."""


class AscendToolError(Exception):
    """A tool is missing, failed, or said something that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class ToolOutput:
    """What a tool printed (standard output and error as they came) and its exit status."""

    argv: tuple[str, ...]
    status: int
    text: str

    def explained(self) -> str:
        """The command, its status and the beginning of its output, in one line for a message."""
        said = " ".join(self.text.split())
        said = said if len(said) <= 200 else said[:200] + "…"
        return f"`{shlex.join(self.argv)}` ended with {self.status} and printed {said!r}"


class ToolRunner:
    """Runs a tool by its name and waits for it; usable from several threads.

    `paths` maps a name to the program that stands for it, `timeout` is in seconds for each run.
    """

    def __init__(self, paths: Mapping[str, str], timeout: float = DEFAULT_TIMEOUT) -> None:
        self._paths = dict(paths)
        self._timeout = timeout

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], timeout: float = DEFAULT_TIMEOUT) -> ToolRunner:
        """HCCN_TOOL_PATH where it is set, else PATH, else where the driver installs its tools."""
        paths = {
            name: shutil.which(name, path=environment.get("PATH")) or usual for name, usual in INSTALLED_TOOLS.items()
        }
        if environment.get(HCCN_TOOL_PATH):
            paths["hccn_tool"] = environment[HCCN_TOOL_PATH]
        return cls(paths, timeout)

    def __call__(self, argv: Sequence[str]) -> ToolOutput:
        """Run one command line and wait for its end.

        Raises:
            AscendToolError: the program cannot be started or does not end in time; it is killed then.

        SIGTERM and Ctrl-C end the tool first, and then do what they do; in the main thread, that is.
        """
        program = self._paths.get(argv[0], argv[0])
        with tempfile.TemporaryFile() as printed, _signals_held_back():
            try:
                process = subprocess.Popen(
                    [program, *argv[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "LC_ALL": "C"},
                    start_new_session=True,
                )
            except OSError as error:
                raise AscendToolError(
                    f"cannot run {argv[0]} ({program}: {error.strerror}): install the Ascend driver's tools on this "
                    "node, mount them into the container, or put them on PATH"
                ) from error
            try:
                status = self._wait(process, argv)
            finally:
                _end(process)
            printed.seek(0)
            return ToolOutput(tuple(argv), status, printed.read(MAX_OUTPUT).decode(errors="replace"))

    def _wait(self, process: subprocess.Popen[bytes], argv: Sequence[str]) -> int:
        """The exit status; that of a tool that still runs is -SIGKILL when a signal came that is held back. Raises
        `AscendToolError` when it does not end in time."""
        ends = time.monotonic() + self._timeout
        pause = _SHORTEST_PAUSE
        while (status := process.poll()) is None:
            if not signal.sigpending().isdisjoint(_ENDING):
                return -signal.SIGKILL
            left = ends - time.monotonic()
            if left <= 0:
                raise AscendToolError(f"`{shlex.join(argv)}` did not end within {self._timeout:g} s")
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return status


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """SIGTERM and Ctrl-C do what they do when the block is left.

    Their handlers raise wherever the main thread is: inside of `Popen` that is a tool that nobody knows of, or a lock
    of `Popen.poll` that is never released, for which ending the tool would wait without end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # One that is ignored would be pending all the same, and end a tool though nobody asked for that.
        heard = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """While inside, SIGTERM leaves by `SystemExit`, so that a tool that runs is ended too. In the main thread only."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what still runs of the process and its children, which share its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        # A tool that is stuck in the driver ends when the driver lets it: we do not wait for that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_SECONDS)
