"""Processes of a benchmark: started pinned, measured as a tree, ended for certain."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

PR_SET_PDEATHSIG = 1
PRIORITY = -10
"""Of all processes of the benchmark alike, where the user may raise it: other work on the machine disturbs less."""


class ProcessError(Exception):
    """A process did not start, or ended when it should not have."""


class Cost(NamedTuple):
    """What a process and all its descendants used so far."""

    user: float
    """CPU seconds in user mode."""
    system: float
    """CPU seconds in the kernel."""
    processes: int

    @property
    def cpu(self) -> float:
        return self.user + self.system


class Memory(NamedTuple):
    """Memory of a process and all its descendants, in bytes."""

    peak_rss: int
    """Sum of each process's peak since `reset_peaks`; pages that they share count once for each."""
    pss: int
    """Sum now, shared pages divided among their users."""


class Pinned:
    """A process that runs on one core, in a process group of its own, its output in a file.

    It dies with the benchmark, however that ends.
    """

    def __init__(self, name: str, argv: Sequence[str], core: int, log: Path, *, piped: bool = False) -> None:
        self.name = name
        self.log = log
        pipe = subprocess.PIPE if piped else None
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(argv),
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_pinned_to(core),
            )
        self.pid = self._process.pid

    def read_line(self, deadline: float) -> bytes:
        """One line of its standard output (of a process started with `piped`).

        Raises ProcessError when the process ends instead, or says nothing for `deadline` seconds.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(deadline):
                raise ProcessError(f"{self.name} said nothing for {deadline:.0f} s; {self.last_words()}")
        line: bytes = self._process.stdout.readline()
        if not line:
            raise ProcessError(f"{self.name} ended with status {self._process.wait()}; {self.last_words()}")
        return line

    def write_line(self, line: str) -> None:
        """A line for its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def wait_for(self, url: str, deadline: float, good: Callable[[bytes], bool] = lambda _: True) -> None:
        """Waits until `url` answers 200 with a body that is `good`; raises ProcessError when it does not in time."""
        until = time.monotonic() + deadline
        last = "no answer"
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise ProcessError(f"{self.name} ended with status {self._process.returncode}; {self.last_words()}")
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    body = answer.read()
                if good(body):
                    return
                last = body[:300].decode(errors="replace")
            except (urllib.error.URLError, OSError) as error:
                last = str(error)
            time.sleep(0.05)
        raise ProcessError(f"{self.name} was not ready within {deadline:.0f} s ({last}); {self.last_words()}")

    def cost(self) -> Cost:
        """CPU time of the tree. Time of descendants that ended is in their parents' books."""
        user = system = 0.0
        tree = self._tree()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                user += times.user + times.children_user
                system += times.system + times.children_system
        return Cost(user, system, len(tree))

    def reset_peaks(self) -> None:
        """Lets each process's peak of resident memory start anew."""
        for process in self._tree():
            with suppress(FileNotFoundError, ProcessLookupError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def memory(self) -> Memory:
        """Memory of the tree."""
        peak = pss = 0
        for process in self._tree():
            with suppress(FileNotFoundError, ProcessLookupError):
                peak += _kilobytes(Path(f"/proc/{process.pid}/status"), "VmHWM:")
                pss += _kilobytes(Path(f"/proc/{process.pid}/smaps_rollup"), "Pss:")
        return Memory(peak * 1024, pss * 1024)

    def busiest(self, seconds: float = 1.0) -> int:
        """The pid of the process in the tree that uses most CPU in the next `seconds`."""
        tree = self._tree()
        before = {process.pid: sum(process.cpu_times()[:2]) for process in tree}
        time.sleep(seconds)
        return int(max(tree, key=lambda process: sum(process.cpu_times()[:2]) - before[process.pid]).pid)

    def last_words(self, lines: int = 5) -> str:
        """The end of its log, for an error message."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "its last words: " + (" | ".join(text) if text else "(none)")

    def stop(self, grace: float = 5.0) -> None:
        """Ends the whole process group; returns when nobody of it is left."""
        tree = self._tree()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._signal(signal.SIGTERM)
        psutil.wait_procs(tree, timeout=grace)
        self._signal(signal.SIGKILL)
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=grace)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def core_busy(core: int) -> float:
    """Seconds for which a core has worked since the machine started, whoever it worked for."""
    times = psutil.cpu_times(percpu=True)[core]
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _pinned_to(core: int) -> Callable[[], None]:
    library = ctypes.CDLL(None)

    def pin() -> None:
        os.sched_setaffinity(0, {core})
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
            Path("/proc/self/autogroup").write_text(str(PRIORITY))
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return pin


def _kilobytes(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0
