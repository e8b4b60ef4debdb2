"""One worker process as the supervisor sees it: its start, its control channel, its end."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable

from pymotor.coordinator.control import (
    Age,
    CallbackPort,
    Drain,
    ExplainReply,
    FleetTaken,
    FrameReader,
    Listening,
    OperatorRequest,
    SettingsTaken,
    frame,
)

_LAST_WORDS_DEADLINE = 5.0
"""Seconds that may pass between the end of a worker's channel and the end of its process."""

_STANDARD_ERROR = 2


class _Channel(asyncio.Protocol):
    """The supervisor's end of the control channel."""

    def __init__(
        self,
        on_listening: Callable[[], None],
        on_callback_port: Callable[[int], None],
        on_operator: Callable[[OperatorRequest], None],
        on_fleet_taken: Callable[[], None],
        on_settings_taken: Callable[[], None],
        on_explained: Callable[[ExplainReply], None],
    ) -> None:
        self._on_operator = on_operator
        self._on_settings_taken = on_settings_taken
        self._on_explained = on_explained
        self._on_fleet_taken = on_fleet_taken
        self._on_listening = on_listening
        self._on_callback_port = on_callback_port
        self._reader = FrameReader(to_worker=False)
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._held_fleet: bytes | None = None
        self.listening = asyncio.Event()
        self.messages = 0
        self.fleet: Age | None = None
        self.settings_number = 0
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            self.messages += 1
            if isinstance(message, Listening):
                self.listening.set()
                self._on_listening()
            elif isinstance(message, FleetTaken):
                self.fleet = message.age
                self._on_fleet_taken()
            elif isinstance(message, SettingsTaken):
                self.settings_number = message.number
                self._on_settings_taken()
            elif isinstance(message, CallbackPort):
                self._on_callback_port(message.port)
            elif isinstance(message, OperatorRequest):
                self._on_operator(message)
            elif isinstance(message, ExplainReply):
                self._on_explained(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.lost.set()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._held_fleet is not None:
            held, self._held_fleet = self._held_fleet, None
            self.write(held)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_fleet(self, data: bytes) -> None:
        """Write a fleet update; while the worker does not read, only the newest is kept for it."""
        if self._paused:
            self._held_fleet = data
        else:
            self.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class WorkerProcess:
    """A running worker. `start` makes it; `ended` must be awaited to the end, which releases all it holds."""

    def __init__(self, process: asyncio.subprocess.Process, channel: _Channel) -> None:
        """Use `start`."""
        self._process = process
        self._channel = channel

    @classmethod
    async def start(
        cls,
        module: str,
        ledger_descriptor: int,
        figures_descriptor: int,
        first_words: bytes,
        *,
        on_listening: Callable[[], None],
        on_callback_port: Callable[[int], None],
        on_operator: Callable[[OperatorRequest], None],
        on_fleet_taken: Callable[[], None],
        on_settings_taken: Callable[[], None],
        on_explained: Callable[[ExplainReply], None],
    ) -> WorkerProcess:
        """Run `module` as a process with a control channel and tell it `first_words`; it counts in the memory behind
        `figures_descriptor`.

        Its standard output goes to our standard error: ours is kept for the line that says ready.
        Raises `OSError` when the process cannot be made.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            channel = _Channel(
                on_listening, on_callback_port, on_operator, on_fleet_taken, on_settings_taken, on_explained
            )
            try:
                await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
            except BaseException:
                ours.close()
                raise
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", module, "--control-fd", str(theirs.fileno()), "--ledger-fd", str(ledger_descriptor)),
                    *("--figures-fd", str(figures_descriptor)),
                    pass_fds=(theirs.fileno(), ledger_descriptor, figures_descriptor),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=_STANDARD_ERROR,
                )
            except BaseException:
                channel.close()
                raise
        channel.write(first_words)
        return cls(process, channel)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def listens(self) -> bool:
        """Whether it said that it accepts requests."""
        return self._channel.listening.is_set()

    @property
    def messages(self) -> int:
        """How many messages came from it."""
        return self._channel.messages

    @property
    def fleet(self) -> Age | None:
        """The age of the oldest snapshot that it may still route by; None before it was told any."""
        return self._channel.fleet

    @property
    def settings_number(self) -> int:
        """The number of the settings it says that it has; 0 for those it began with."""
        return self._channel.settings_number

    async def listening(self) -> None:
        """Return when it has said that it accepts requests."""
        await self._channel.listening.wait()

    async def ended(self) -> str:
        """Wait for the end of the process; returns how it ended, in words.

        A worker whose channel is closed is not of use any more and is killed if it does not end.
        """
        exited = asyncio.ensure_future(self._process.wait())
        lost = asyncio.ensure_future(self._channel.lost.wait())
        try:
            await asyncio.wait([exited, lost], return_when=asyncio.FIRST_COMPLETED)
            # Its last words may still be in the channel, or the process may be on its way out.
            await asyncio.wait([exited, lost], timeout=_LAST_WORDS_DEADLINE)
            if not exited.done():
                self.kill()
            return described_exit(await exited)
        finally:
            lost.cancel()
            exited.cancel()
            self._channel.close()

    def tell(self, words: bytes) -> None:
        """Send a framed message."""
        self._channel.write(words)

    def tell_fleet(self, words: bytes, age: Age) -> None:
        """Send a framed fleet update of this age; one that the worker had no time for yet is replaced by a newer
        one."""
        if self._channel.fleet is None:
            self._channel.fleet = age
        self._channel.write_fleet(words)

    def drain(self, grace: float) -> None:
        """Ask it to finish what runs within `grace` seconds and to end."""
        self.tell(frame(Drain(grace=grace)))

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        try:
            self._process.kill()
        except ProcessLookupError:
            pass  # it ended in this moment, which is what was wanted


def described_exit(status: int) -> str:
    """The exit status of a process (negative: the signal that ended it) in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
