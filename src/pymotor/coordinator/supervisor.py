"""The Coordinator's supervisor: takes the ports, keeps the workers, tells them of the fleet, answers operators."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from pymotor.control_plane import AdminServer
from pymotor.coordinator.admin import Overview, management_app, observability_app
from pymotor.coordinator.control import WorkerStart
from pymotor.coordinator.engine_readings import reading_engines
from pymotor.coordinator.fleet_source import FleetSource
from pymotor.coordinator.known_fleet import KnownFleet, SnapshotRefusedError
from pymotor.coordinator.operators import Operator, OperatorDesk
from pymotor.coordinator.pairing import PairingRules
from pymotor.coordinator.ports import hold_shared, listen_alone, url_of
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.told_fleet import ToldFleet
from pymotor.coordinator.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

LEDGER_ROWS = 8192
"""Endpoints a fleet may have."""


class CoordinatorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one Coordinator is started with; a port of 0 is any free one."""

    settings: Settings
    host: str = "127.0.0.1"
    port: int = 1025
    management_port: int | None = 1026
    """None: management is not served on a port of its own, nor are metrics likewise."""
    observability_port: int | None = 1027
    workers: int = 1
    log_level: str = "INFO"
    grace: float = 20.0
    """Seconds that running requests have when the Coordinator is to end."""
    worker_timeout: float = 30.0
    """Seconds after which a worker that does not answer is replaced."""
    parent_pipe: int | None = None
    """A descriptor whose end of file means that the parent is gone."""
    worker_module: str
    """What `python -m` starts as a worker."""


class Sockets(msgspec.Struct):
    """The ports that are served."""

    inference: socket.socket
    management: socket.socket | None
    observability: socket.socket | None


async def supervise(
    options: CoordinatorOptions,
    source: FleetSource,
    announce: Callable[[str], None],
    operator: Operator | None = None,
) -> None:
    """Run a Coordinator until SIGTERM, SIGINT or the parent's end; a second signal cuts the grace short.

    `source` tells of the fleet. `announce` gets the inference URL once all workers accept requests. `operator`
    answers some paths of the inference port in this process. Returns when every process, task and socket it made is
    gone, also when it raises: `PortError` when a port cannot be had, `WorkerStartError` when the workers do not start.
    """
    with _ports(options) as sockets, _ledger(options.workers) as (ledger, descriptor):
        host, port = sockets.inference.getsockname()[:2]
        first = WorkerStart(
            settings=options.settings,
            host=host,
            port=port,
            column=0,
            columns=options.workers,
            ledger_rows=LEDGER_ROWS,
            log_level=options.log_level,
            operator_paths=operator.paths if operator is not None else (),
        )
        desk = OperatorDesk(operator)
        pool = WorkerPool(options.worker_module, first, ledger, descriptor, options.worker_timeout, desk)
        settings = options.settings
        fleet = KnownFleet(LEDGER_ROWS, PairingRules(settings.deploy_mode, settings.callback_host))
        stop, hurry = asyncio.Event(), asyncio.Event()
        with _end_requests(stop, hurry, options.parent_pipe):
            reading = reading_engines(fleet, ledger, options.settings.engine_load_interval)
            overview = Overview(fleet, ledger, pool, source)
            source.follow(ToldFleet(fleet, ledger, pool))
            async with _admin(overview, sockets), reading, desk.attended(overview):
                following = asyncio.create_task(_follow(source, fleet, pool))
                running = asyncio.create_task(pool.run())
                announcing = asyncio.create_task(_announce(pool, announce, url_of(sockets.inference)))
                stopping = asyncio.create_task(stop.wait())
                graceful = False
                try:
                    await asyncio.wait([following, running, stopping], return_when=asyncio.FIRST_COMPLETED)
                    graceful = stopping.done()
                finally:
                    announcing.cancel()
                    stopping.cancel()
                    await pool.stop(options.grace if graceful else 0.0, hurry)
                    following.cancel()
                await running
                with contextlib.suppress(asyncio.CancelledError):
                    await following


async def _announce(pool: WorkerPool, announce: Callable[[str], None], url: str) -> None:
    await pool.ready()
    announce(url)


async def _follow(source: FleetSource, fleet: KnownFleet, pool: WorkerPool) -> None:
    """Take each snapshot over and tell the workers, and the log what has become of it."""
    told: set[str] = set()
    async with contextlib.aclosing(source.snapshots()) as snapshots:
        async for snapshot in snapshots:
            try:
                update = fleet.accept(snapshot)
            except SnapshotRefusedError as refusal:
                logger.warning("a fleet snapshot is refused: %s", refusal)
                continue
            if update is None:
                continue
            logger.info(
                "fleet epoch %d version %d: %d instances, %d of them active",
                *(snapshot.epoch, snapshot.version, len(fleet.instances)),
                sum(instance.serves for instance in fleet.instances),
            )
            pool.publish(update)
            lacks = set(fleet.readiness.degraded)
            for lack in sorted(lacks - told):
                logger.warning("%s", lack)
            for mended in sorted(told - lacks):
                logger.info("no longer: %s", mended)
            told = lacks


@contextlib.contextmanager
def _ports(options: CoordinatorOptions) -> Iterator[Sockets]:
    with contextlib.ExitStack() as stack:
        inference = stack.enter_context(hold_shared(options.host, options.port, "--port"))
        more: list[socket.socket | None] = []
        for port, option in (
            (options.management_port, "--management-port"),
            (options.observability_port, "--observability-port"),
        ):
            more.append(None if port is None else stack.enter_context(listen_alone(options.host, port, option)))
        yield Sockets(inference, *more)


@contextlib.contextmanager
def _ledger(workers: int) -> Iterator[tuple[Ledger, int]]:
    descriptor = Ledger.allocate(columns=workers, rows=LEDGER_ROWS)
    try:
        yield Ledger(descriptor, columns=workers, rows=LEDGER_ROWS, column=None), descriptor
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def _admin(overview: Overview, sockets: Sockets) -> AsyncIterator[None]:
    """The admin servers that have a port, as long as the block runs."""
    served = [
        (AdminServer(make_app(overview)), listening, url_of(listening), subject)
        for make_app, listening, subject in (
            (management_app, sockets.management, "management"),
            (observability_app, sockets.observability, "metrics"),
        )
        if listening is not None
    ]
    if served:
        logger.info("%s", ", ".join(f"{subject} on {url}" for _, _, url, subject in served))
    tasks = [asyncio.create_task(server.serve_on(listening)) for server, listening, _, _ in served]
    try:
        yield
    finally:
        for server, *_ in served:
            server.finish()
        await asyncio.gather(*tasks)


@contextlib.contextmanager
def _end_requests(stop: asyncio.Event, hurry: asyncio.Event, parent_pipe: int | None) -> Iterator[None]:
    """Set `stop` at SIGTERM, SIGINT or when the parent is gone, and `hurry` when a signal comes again."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            logger.warning("%s again: running requests are given up", number.name)
            hurry.set()
        else:
            logger.info("%s: running requests are finished, then the Coordinator ends", number.name)
            stop.set()

    def on_parent(descriptor: int) -> None:
        try:
            alive = bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return
        except OSError as error:
            logger.warning("the parent's pipe cannot be read: %s", error)
            alive = False
        if not alive:
            loop.remove_reader(descriptor)
            logger.info("the parent is gone: running requests are finished, then the Coordinator ends")
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    if parent_pipe is not None:
        os.set_blocking(parent_pipe, False)
        loop.add_reader(parent_pipe, on_parent, parent_pipe)
    try:
        yield
    finally:
        if parent_pipe is not None:
            loop.remove_reader(parent_pipe)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
