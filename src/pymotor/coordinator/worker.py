"""A worker process: it listens beside its siblings on the inference port and answers requests.

`python -m pymotor.coordinator.worker --control-fd N --ledger-fd M`, started by the supervisor, which tells it the
rest over the control channel. It ends when told to drain, or when the channel closes because the supervisor is gone.
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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any

import uvloop

from pymotor.coordinator.admission import Admission
from pymotor.coordinator.bootstraps import Bootstraps
from pymotor.coordinator.callbacks import Callbacks
from pymotor.coordinator.control import (
    CallbackPort,
    CallbackPorts,
    Drain,
    FleetTaken,
    FleetUpdate,
    FrameReader,
    Listening,
    MetricsReport,
    MetricsRequest,
    OperatorReply,
    WorkerStart,
    frame,
)
from pymotor.coordinator.flows.context import Services
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.gateway import Gateway
from pymotor.coordinator.http.client_request import Limits
from pymotor.coordinator.http.open_connections import OpenConnections, allow_many_files, connections_within
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.metaserver import Metaserver
from pymotor.coordinator.operators import OperatorLine
from pymotor.coordinator.pairing import PairingRules
from pymotor.coordinator.prompt_tokenizer import PromptTokenizer
from pymotor.coordinator.readiness import serving_endpoints
from pymotor.coordinator.routing import FleetView
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.round_robin import RoundRobin
from pymotor.coordinator.scheduling.target import Policy, Target
from pymotor.fleet import EndpointState, KVDialect
from pymotor.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

_BACKLOG = 4096
_SWEEP_SECONDS = 1.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where workers of one machine reach each other when they listen on all interfaces."""


class Targets:
    """The endpoints of the newest snapshot, kept alive from one snapshot to the next."""

    def __init__(self, ledger: Ledger, shared: SharedState) -> None:
        self._ledger = ledger
        self._shared = shared
        self._by_id: dict[str, Target] = {}
        self._by_row: dict[int, Target] = {}

    def update(self, update: FleetUpdate) -> dict[str, Target]:
        """The targets of a snapshot; those not in it any more close their idle connections."""
        found: dict[str, Target] = {}
        for instance in update.snapshot.instances:
            for endpoint in instance.endpoints:
                row, generation = update.rows[endpoint.id]
                target = self._by_id.get(endpoint.id)
                if target is None or target.generation != generation or target.row != row or target.url != endpoint.url:
                    target = Target(endpoint, instance, self._ledger, row, generation, self._shared)
                    self._take_row(target)
                target.instance = instance
                target.pool.suspect = endpoint.state in (EndpointState.UNHEALTHY, EndpointState.GONE)
                found[endpoint.id] = target
        for endpoint_id, target in self._by_id.items():
            if found.get(endpoint_id) is not target:
                target.pool.close()
        self._by_id = found
        return found

    def _take_row(self, target: Target) -> None:
        former = self._by_row.get(target.row)
        if former is not None and former.generation != target.generation:
            former.retired = True
            self._ledger.clear_own_row(target.row)
        self._by_row[target.row] = target

    def close_expired(self, now: float) -> None:
        """Close idle connections that the engines are about to close."""
        for target in self._by_id.values():
            target.pool.close_expired(now)


class Worker:
    """All that lives in one worker process."""

    def __init__(self, start: WorkerStart, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> None:
        settings = start.settings
        self._start = start
        self._loop = loop
        self._upstream = SharedState()
        self._connections = OpenConnections(connections_within(allow_many_files()))
        self._targets = Targets(ledger, self._upstream)
        self.instruments = Instruments()
        policy: Policy = RoundRobin(start.column) if settings.scheduler_type == "round_robin" else LoadBalance(ledger)
        self._services = services = Services(
            loop=loop,
            admission=Admission(loop, ledger, start.column, settings.limits, self.instruments),
            settings=settings,
            ledger=ledger,
            policy=policy,
            instruments=self.instruments,
            heads=ResponseHeads(server_timing=settings.server_timing, cors=settings.cors),
            callbacks=Callbacks(start.column, loop),
            bootstraps=Bootstraps(self._upstream),
            tokenizer=PromptTokenizer.load(settings.tokenizer_path, loop) if settings.tokenizer_path else None,
        )
        self._metaserver = Metaserver(services.callbacks, services.heads, self._upstream, settings.first_token_timeout)
        self._serving_callbacks: asyncio.Task[None] | None = None
        self.on_callback_port: Callable[[int], None] = lambda _port: None
        """Told the port at which decode engines call this worker back, once there is one."""
        self.operators = OperatorLine(start.operator_paths, loop)
        self._gateway = Gateway(services, self._metaserver, self.operators)
        self._rules = PairingRules(settings.deploy_mode, settings.callback_host)
        self._limits = Limits(
            head_bytes=settings.header_limit_bytes,
            body_bytes=settings.body_limit_bytes,
            arriving_bytes=settings.arriving_limit_bytes,
            head_time=settings.header_timeout,
            body_idle=settings.body_idle_timeout,
        )
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Accept requests, beside the other workers on the same port. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in self._start.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((self._start.host, self._start.port))
            self._server = await self._loop.create_server(self._connection, sock=listener, backlog=_BACKLOG)
        except OSError:
            listener.close()
            raise

    def _connection(self) -> ClientConnection:
        self.instruments.connections.value += 1
        return ClientConnection(
            self._loop, self._gateway.handle, self._gateway.refusal, self._limits, self._connections
        )

    def set_fleet(self, update: FleetUpdate) -> None:
        """Route by a new snapshot."""
        self._services.encodings.fleet_changed(update.snapshot.instances)
        self._services.bootstraps.forget_all()
        targets = self._targets.update(update)
        self._services.circuits.fleet_changed(update.snapshot.instances, targets)
        self._services.closed.fleet_changed(serving_endpoints(update.snapshot))
        view = FleetView(update.snapshot, targets, self._rules)
        if view.has(KVDialect.CALLBACK) and self._serving_callbacks is None:
            self._take_callbacks()
        self._gateway.set_fleet(view)

    def _take_callbacks(self) -> None:
        """Listen for decode engines' callbacks; requests that need them are refused as long as nobody does."""
        settings, host = self._start.settings, self._start.host
        port = settings.metaserver_base_port and settings.metaserver_base_port + self._start.column
        try:
            shared = self._start.port if settings.callbacks_at_inference_port else None
            listener = self._metaserver.listen(host, port, settings.callback_host, shared)
        except OSError as error:
            logger.error("no port for callbacks of decode engines can be had on %s: %s", host, error)
            return
        self._serving_callbacks = self._loop.create_task(self._metaserver.serve(listener))
        self.on_callback_port(listener.getsockname()[1])

    def set_callback_ports(self, ports: Mapping[int, int]) -> None:
        """Where the workers take callbacks, by number."""
        host = self._start.host
        self._metaserver.set_siblings(ports, _LOOPBACK.get(host, host))

    async def sweep(self) -> None:
        """Once a second, for ever: end what has been silent for too long."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = monotonic()
            for connection in list(self._upstream.busy):
                connection.check_deadline(now)
            for client in self._connections:
                client.check_deadline(now)
            self._targets.close_expired(now)
            self._metaserver.check_deadlines(now)
            self._services.encodings.close_expired()

    async def drain(self, grace: float) -> None:
        """Accept nothing new and wait until what runs is done, `grace` seconds at most."""
        if self._server is not None:
            self._server.close()
        ends = monotonic() + grace
        # Asked again and again: a hook for it would cost every request.
        while not self._close_idle() and monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for client in self._connections:
            client.transport.abort()
        self._metaserver.close()

    def _close_idle(self) -> bool:
        """Close every client's connection without a request in hand; returns whether that was all."""
        closed = [client.close_when_idle() for client in self._connections]
        return all(closed)


class ControlChannel(asyncio.Protocol):
    """The worker's end of the channel to the supervisor."""

    def __init__(self, ledger_descriptor: int) -> None:
        self._ledger_descriptor = ledger_descriptor
        self._reader = FrameReader(to_worker=True)
        self._worker: Worker | None = None
        self._waiting_fleet: FleetUpdate | None = None
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
            elif isinstance(message, MetricsRequest) and self._worker is not None:
                dump = self._worker.instruments.registry.dump()
                self._transport.write(frame(MetricsReport(number=message.number, dump=dump)))
            elif isinstance(message, CallbackPorts):
                self._callback_ports = message.ports
                if self._worker is not None:
                    self._worker.set_callback_ports(message.ports)
            elif isinstance(message, OperatorReply) and self._worker is not None:
                self._worker.operators.take(message)
            elif isinstance(message, Drain):
                self._spawn(self._drain(message.grace))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.end()

    def end(self, status: int = 0) -> None:
        """The process is to end, with this exit status."""
        if not self.over.done():
            self.over.set_result(status)

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
        worker = Worker(start, ledger, asyncio.get_running_loop())
        worker.operators.send = lambda request: self._transport.write(frame(request))
        await worker.listen()
        self._worker = worker
        worker.set_callback_ports(self._callback_ports)
        worker.on_callback_port = lambda port: self._transport.write(frame(CallbackPort(port=port)))
        if self._waiting_fleet is not None:
            self._take_fleet(worker, self._waiting_fleet)
        self._transport.write(frame(Listening()))
        self._spawn(worker.sweep())

    def _take_fleet(self, worker: Worker, update: FleetUpdate) -> None:
        worker.set_fleet(update)
        self._transport.write(frame(FleetTaken(age=update.age)))

    async def _drain(self, grace: float) -> None:
        if self._worker is not None:
            await self._worker.drain(grace)
        self.end()


async def run(control_descriptor: int, ledger_descriptor: int) -> int:
    """Be a worker until told to end; returns the exit status."""
    loop = asyncio.get_running_loop()
    control = socket.socket(fileno=control_descriptor)
    transport, channel = await loop.create_connection(lambda: ControlChannel(ledger_descriptor), sock=control)
    # Ctrl-C reaches the whole process group; the supervisor alone decides when workers end.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, channel.end)
    try:
        return await channel.over
    finally:
        transport.close()


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="pymotor.coordinator.worker", description="Started by pymotor coordinator.")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--ledger-fd", type=int, required=True)
    arguments = parser.parse_args(argv)
    os.set_inheritable(arguments.control_fd, False)
    os.set_inheritable(arguments.ledger_fd, False)
    # What is loaded by now lives as long as the process; and a request's objects hang together without circles, so
    # looking for those can be rare. Measured: 5 % of a request's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return uvloop.run(run(arguments.control_fd, arguments.ledger_fd))


if __name__ == "__main__":
    sys.exit(main())
