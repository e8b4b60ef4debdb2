"""Child processes of a test: started, waited for, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import plain_http

START_SECONDS = 180.0
PATIENCE_SECONDS = 120.0
"""For what takes milliseconds on a machine that has nothing else to do."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `condition()` is true. Raises `AssertionError` that says `what` did not happen."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


class PymotorProcess:
    """One `pymotor …` in a process group of its own; its output goes to `log`."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "pymotor"),
    ) -> None:
        """`program`: what Python runs, a script as well."""
        self.argv = list(argv)
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *program, *argv],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process itself."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait_until_ok(self, url: str, seconds: float = START_SECONDS) -> None:
        """Wait until GET answers 200. Raises `RuntimeError` with the log's end when it does not."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if not self.alive:
                raise RuntimeError(f"{self.argv} ended with {self._process.returncode}:\n{self.tail()}")
            with contextlib.suppress(httpx.TransportError):
                if plain_http.get(url, timeout=10).status_code == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{url} did not answer 200 within {seconds:g} s:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """End the whole group at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_SECONDS)

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """SIGTERM, and SIGKILL for what is still there when our patience is over."""
        self.ask_to_end()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
