"""`pymotor up --detach`: the fleet's `pymotor up` as a background process, followed until it is ready.

The background process has a session of its own. Until the fleet is ready its output is a pipe of events that this
process shows, and its input a pipe whose end tells it that nobody waits any more. Then it lets go of both and lives
on alone.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pymotor.local.console import Console
from pymotor.local.events import Failed, Note, Ready, decode_event

_TICK_SECONDS = 0.25


def run_in_background(words: Sequence[str], console: Console) -> int:
    """Start `pymotor up WORDS` in the background and show what it says.

    Returns 0 when the fleet is up, 1 when it failed (then nothing of it is left), 130 after Ctrl-C.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "pymotor", "up", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as background:
        relay = _Relay(background, console)
        interrupted = False
        while True:
            try:
                relay.follow()
                break
            except KeyboardInterrupt:
                interrupted = True
                background.send_signal(signal.SIGTERM)
        if interrupted:
            background.wait()
            return 130
        if relay.was_ready and not relay.failed:
            background.returncode = 0  # it lives on; leaving the block must not wait for it
            return 0
        background.wait()
        return 1


class _Relay:
    """Shows the events of a background process up to the end of its output."""

    def __init__(self, background: subprocess.Popen[bytes], console: Console) -> None:
        assert background.stdout is not None
        self._output = background.stdout.fileno()
        self._console = console
        self._rest = b""
        self.was_ready = False
        self.failed = False

    def follow(self) -> None:
        """Return at the end of the output."""
        while True:
            if not select.select([self._output], [], [], _TICK_SECONDS)[0]:
                self._console.tick()
                continue
            content = os.read(self._output, 65536)
            if not content:
                return
            *lines, self._rest = (self._rest + content).split(b"\n")
            for line in lines:
                self._show(line)

    def _show(self, line: bytes) -> None:
        try:
            event = decode_event(line)
        except msgspec.MsgspecError:
            self._console.show(Note(line.decode(errors="replace")))  # not an event: a traceback of Python's own
            return
        self.was_ready = self.was_ready or isinstance(event, Ready)
        self.failed = self.failed or isinstance(event, Failed)
        self._console.show(event)


class BackgroundStreams:
    """The background process's side: standard streams that somebody follows until the fleet is ready."""

    def __init__(self, give_up: Callable[[str], None]) -> None:
        """`give_up` is called with the reason when nobody follows any more before the fleet is ready."""
        self._give_up = give_up

    def watch(self) -> None:
        """Notice the end of the input. For use inside the event loop."""
        asyncio.get_running_loop().add_reader(0, self._input_ended)

    def let_go(self, log: Path) -> None:
        """The fleet is ready: no input from now on, and what Python still has to say goes to the log."""
        asyncio.get_running_loop().remove_reader(0)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        written = os.open(log, os.O_WRONLY | os.O_APPEND)
        sys.stdout.flush()
        sys.stderr.flush()
        for source, target in ((nowhere, 0), (written, 1), (written, 2)):
            os.dup2(source, target)
        os.close(nowhere)
        os.close(written)

    def _input_ended(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._give_up("the `pymotor up --detach` that waited for it ended")
