"""A worker process and its end of the channel to the supervisor.

`python -m pymotor.coordinator.worker_control --control-fd N --ledger-fd M --figures-fd K`, started by the supervisor,
which tells it the rest over the control channel. It ends when told to drain, or when the channel closes because the
supervisor is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import uvloop

from pymotor.coordinator.control import (
    CallbackPort,
    CallbackPorts,
    Drain,
    ExplainRequest,
    FinishedQuestion,
    FleetTaken,
    FleetUpdate,
    FrameReader,
    KeysUpdate,
    Listening,
    OperatorReply,
    Ping,
    Pong,
    SettingsTaken,
    SettingsUpdate,
    WorkerStart,
    frame,
)
from pymotor.coordinator.guarding import limits_behind
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.worker import Worker
from pymotor.telemetry.logs import configure_logging, set_log_level
from pymotor.telemetry.metrics import Registry
from pymotor.telemetry.shared_figures import SharedFigures

logger = logging.getLogger(__name__)


class ControlChannel(asyncio.Protocol):
    """The worker's end of the channel to the supervisor."""

    def __init__(self, ledger_descriptor: int, instruments: Instruments) -> None:
        self._ledger_descriptor = ledger_descriptor
        self._instruments = instruments
        self._reader = FrameReader(to_worker=True)
        self._worker: Worker | None = None
        self._waiting_fleet: FleetUpdate | None = None
        self._waiting_settings: SettingsUpdate | None = None
        self._waiting_keys: KeysUpdate | None = None
        self._callback_ports: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The process's exit status, once it is to end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if isinstance(message, WorkerStart):
                configure_logging(message.log_level, process=f"worker-{message.column}")
                self._spawn(self._begin(message))
            elif isinstance(message, FleetUpdate):
                if self._worker is None:
                    self._waiting_fleet = message
                else:
                    self._take_fleet(self._worker, message)
            elif isinstance(message, SettingsUpdate):
                if self._worker is None:
                    self._waiting_settings = message
                else:
                    self._take_settings(self._worker, message)
            elif isinstance(message, KeysUpdate):
                self._waiting_keys = message
                self._take_keys()
            elif isinstance(message, Ping) and self._worker is not None:
                self._transport.write(frame(Pong()))
            elif isinstance(message, CallbackPorts):
                self._callback_ports = message.ports
                if self._worker is not None:
                    self._worker.set_callback_ports(message.ports)
            elif isinstance(message, OperatorReply) and self._worker is not None:
                self._worker.operators.take(message)
            elif isinstance(message, ExplainRequest) and self._worker is not None:
                self._spawn(self._explain(self._worker, message))
            elif isinstance(message, FinishedQuestion) and self._worker is not None:
                self._transport.write(frame(self._worker.finished_requests(message)))
            elif isinstance(message, Drain):
                self._spawn(self._drain(message.grace))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.end()

    def end(self, status: int = 0) -> None:
        """The process is to end, with this exit status."""
        if not self.over.done():
            self.over.set_result(status)

    def close(self) -> None:
        """The process ends."""
        self._transport.close()
        if self._worker is not None:
            self._worker.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the worker cannot go on", exc_info=task.exception())
            self.end(1)

    async def _begin(self, start: WorkerStart) -> None:
        ledger = Ledger(self._ledger_descriptor, columns=start.columns, rows=start.ledger_rows, column=start.column)
        limits = limits_behind(self._ledger_descriptor, start)
        worker = Worker(start, ledger, asyncio.get_running_loop(), self._instruments, limits)
        worker.operators.send = lambda request: self._transport.write(frame(request))
        await worker.listen()
        self._worker = worker
        worker.set_callback_ports(self._callback_ports)
        worker.on_callback_port = lambda port: self._transport.write(frame(CallbackPort(port=port)))
        if self._waiting_settings is not None:
            self._take_settings(worker, self._waiting_settings)
        self._take_keys()
        if self._waiting_fleet is not None:
            self._take_fleet(worker, self._waiting_fleet)
        self._transport.write(frame(Listening()))
        self._spawn(worker.sweep())

    def _take_fleet(self, worker: Worker, update: FleetUpdate) -> None:
        worker.set_fleet(update)
        self._transport.write(frame(FleetTaken(age=update.age)))

    def _take_settings(self, worker: Worker, update: SettingsUpdate) -> None:
        worker.set_settings(update.settings)
        set_log_level(update.log_level)
        self._transport.write(frame(SettingsTaken(number=update.number)))

    async def _explain(self, worker: Worker, request: ExplainRequest) -> None:
        self._transport.write(frame(await worker.explain(request)))

    def _take_keys(self) -> None:
        if self._waiting_keys is not None and self._worker is not None:
            self._worker.guarding.set_keys(self._waiting_keys.keys)

    async def _drain(self, grace: float) -> None:
        if self._worker is not None:
            await self._worker.drain(grace)
        self.end()


async def run(control_descriptor: int, ledger_descriptor: int, instruments: Instruments) -> int:
    """Be a worker until told to end; returns the exit status."""
    loop = asyncio.get_running_loop()
    control = socket.socket(fileno=control_descriptor)
    _, channel = await loop.create_connection(lambda: ControlChannel(ledger_descriptor, instruments), sock=control)
    # Ctrl-C reaches the whole process group, SIGTERM all that a service manager started: the supervisor alone decides
    # when workers end, and has SIGKILL for those that do not.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: None)
    try:
        return await channel.over
    finally:
        channel.close()


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="pymotor.coordinator.worker_control", description="Started by pymotor coordinator."
    )
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--ledger-fd", type=int, required=True)
    parser.add_argument("--figures-fd", type=int, required=True)
    arguments = parser.parse_args(argv)
    os.set_inheritable(arguments.control_fd, False)
    os.set_inheritable(arguments.ledger_fd, False)
    instruments = Instruments(Registry(SharedFigures(arguments.figures_fd)))
    os.close(arguments.figures_fd)
    # What is loaded by now lives as long as the process; and a request's objects hang together without circles, so
    # looking for those can be rare. Measured: 5 % of a request's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return uvloop.run(run(arguments.control_fd, arguments.ledger_fd, instruments))


if __name__ == "__main__":
    sys.exit(main())
