"""How `pymotor up` shows its events: to a person at a terminal, as plain lines, or as JSON for programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TextIO

from pymotor.local.events import (
    Answered,
    Event,
    Failed,
    Note,
    ProcessChanged,
    ProcessState,
    Ready,
    Replaced,
    Stopping,
    encode_event,
)

_MARKS = {
    ProcessState.STARTING: "…",
    ProcessState.READY: "✔",
    ProcessState.UNHEALTHY: "!",
    ProcessState.EXITED: "✘",
    ProcessState.STOPPED: "·",
}
_COLOURS = {
    ProcessState.STARTING: "33",
    ProcessState.READY: "32",
    ProcessState.UNHEALTHY: "33",
    ProcessState.EXITED: "31",
    ProcessState.STOPPED: "2",
}

_REMINDER_SECONDS = 30.0


class Console(Protocol):
    """Shows events."""

    def show(self, event: Event) -> None:
        """One thing happened."""

    def tick(self) -> None:
        """Some time went by."""


def make_console(output: TextIO, errors: TextIO, *, as_json: bool) -> Console:
    """The console that fits the output: JSON when asked for, moving and coloured on a terminal that is not `dumb`
    nor barred from it by `NO_COLOR`, plain lines elsewhere."""
    if as_json:
        return JsonConsole(output)
    plain = PlainConsole(output, errors)
    moving = output.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    return TerminalConsole(output, plain) if moving else plain


class JsonConsole:
    """One JSON object a line."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def show(self, event: Event) -> None:
        print(encode_event(event), file=self._output, flush=True)

    def tick(self) -> None:
        return None


class LogConsole:
    """Lines with the time of day, for a log file."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def show(self, event: Event) -> None:
        moment = datetime.now().astimezone().isoformat(timespec="milliseconds")
        print(f"{moment} {describe(event).strip()}", file=self._output, flush=True)

    def tick(self) -> None:
        return None


class PlainConsole:
    """A line for each event, failures on the error output; while nothing happens, who is still awaited."""

    def __init__(self, output: TextIO, errors: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._errors = errors
        self._clock = clock
        self._began = self._last = clock()
        self._starting: dict[str, None] = {}

    def show(self, event: Event) -> None:
        is_error = isinstance(event, Failed) or (isinstance(event, Note) and event.severity != "info")
        print(describe(event), file=self._errors if is_error else self._output, flush=True)
        self._last = self._clock()
        if isinstance(event, ProcessChanged):
            self._starting.pop(event.name, None)
            if event.state is ProcessState.STARTING:
                self._starting[event.name] = None

    def tick(self) -> None:
        now = self._clock()
        if self._starting and now - self._last >= _REMINDER_SECONDS:
            names = ", ".join(self._starting)
            print(f"  … still starting after {now - self._began:.0f} s: {names}", file=self._output, flush=True)
            self._last = now


class TerminalConsole:
    """While processes start, a block with a line for each of them and its seconds is drawn again and again; all
    else is printed above it."""

    def __init__(self, output: TextIO, plain: PlainConsole, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._plain = plain
        self._clock = clock
        self._began = clock()
        self._starting: dict[str, ProcessChanged] = {}
        self._drawn = 0

    def show(self, event: Event) -> None:
        self._erase()
        if isinstance(event, ProcessChanged) and event.state is ProcessState.STARTING:
            self._starting[event.name] = event
        elif isinstance(event, ProcessChanged):
            self._starting.pop(event.name, None)
            print(_coloured(event), file=self._output)
        else:
            if isinstance(event, Failed | Stopping | Ready):
                self._starting.clear()
            self._output.flush()
            self._plain.show(event)
        self._draw()

    def tick(self) -> None:
        if self._starting:
            self._erase()
            self._draw()

    def _draw(self) -> None:
        seconds = self._clock() - self._began
        for event in self._starting.values():
            now = ProcessChanged(event.name, event.state, seconds, event.detail)
            print(_coloured(now), file=self._output)
        self._drawn = len(self._starting)
        self._output.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._output.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0


def describe(event: Event) -> str:
    """The event in words, without colours."""
    if isinstance(event, Replaced):
        return f"  {event.where}: {event.old} → {event.new}"
    if isinstance(event, Note):
        return event.message if event.severity == "info" else f"{event.severity}: {event.message}"
    if isinstance(event, ProcessChanged):
        return _process_line(event)
    if isinstance(event, Ready):
        return _ready_text(event)
    if isinstance(event, Answered):
        return (
            f"\nFirst request answered after {event.seconds:.2f} s: {event.text!r}\n"
            f"  Server-Timing: {event.server_timing or '(none)'}"
        )
    if isinstance(event, Failed):
        return f"error: {event.reason}"
    if isinstance(event, Stopping):
        return f"Stopping: {event.reason}"
    return f"Stopped after {event.seconds:.1f} s; no process is left."


def _process_line(event: ProcessChanged) -> str:
    detail = f"  {event.detail}" if event.detail else ""
    return f"  {_MARKS[event.state]} {event.name:<14} {event.state.value:<9} {event.seconds:6.1f} s{detail}"


def _coloured(event: ProcessChanged) -> str:
    return f"\x1b[{_COLOURS[event.state]}m{_process_line(event)}\x1b[0m"


def _ready_text(event: Ready) -> str:
    dashboard = f"dashboard {event.dashboard_url}   " if event.dashboard_url else ""
    return (
        f"\nReady after {event.seconds:.1f} s: {event.url}   (model {', '.join(event.models)})\n"
        f"  {dashboard}metrics {event.observability_url}/metrics\n\n"
        f"{event.curl}\n"
    )
