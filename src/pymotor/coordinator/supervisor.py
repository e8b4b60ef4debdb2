"""The Coordinator's supervisor: takes the ports, keeps the workers, tells them of the fleet, answers operators."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import msgspec
from fastapi import APIRouter

from pymotor.control_plane import AdminServer
from pymotor.control_plane.ending import end_requests
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import hold_shared, listen_alone, url_of
from pymotor.control_plane.tls import ServerTLS
from pymotor.coordinator.admin import Overview, management_app, observability_app
from pymotor.coordinator.control import WorkerStart
from pymotor.coordinator.dashboard.board import keeping_board
from pymotor.coordinator.dashboard.page_files import page_files
from pymotor.coordinator.dashboard.routes import dashboard_routes
from pymotor.coordinator.doors import Doors, Token
from pymotor.coordinator.engine_readings import reading_engines
from pymotor.coordinator.engine_scrapes import EngineScrapes, scraping_engines
from pymotor.coordinator.fleet_source import FleetSource
from pymotor.coordinator.keys.key_source import KeySource
from pymotor.coordinator.known_fleet import KnownFleet, SnapshotRefusedError
from pymotor.coordinator.limits.buckets import size_of
from pymotor.coordinator.limits.rate_limits import BUCKETS
from pymotor.coordinator.live_settings import SettingsWatch
from pymotor.coordinator.operators import Operator, OperatorDesk
from pymotor.coordinator.pairing import PairingRules
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
    key_source: KeySource | None = None
    """Where API keys come from; None: nobody needs one."""
    door_token: Token | None = None
    """What opens the management and observability ports beside keys."""
    open_doors: tuple[str, ...] = ()
    """Of `management` and `observability`: at these anybody may read."""
    worker_module: str
    """What `python -m` starts as a worker."""
    management_tls: PlaneTLS | None = None
    """Of the management port; None: plain HTTP."""
    observability_tls: PlaneTLS | None = None
    """Of the observability port, likewise."""


class Sockets(msgspec.Struct):
    """The ports that are served."""

    inference: socket.socket
    management: socket.socket | None
    observability: socket.socket | None


class Page(NamedTuple):
    """The dashboard as the management port serves it."""

    routes: APIRouter
    paths: tuple[str, ...]
    """Of files that anybody may have."""


async def supervise(
    options: CoordinatorOptions,
    source: FleetSource,
    announce: Callable[[str], None],
    operator: Operator | None = None,
    live: SettingsWatch | None = None,
) -> None:
    """Run a Coordinator until SIGTERM, SIGINT or the parent's end; a second signal cuts the grace short.

    `source` tells of the fleet. `announce` gets the inference URL once all workers accept requests. `operator`
    answers some paths of the inference port in this process. `live` follows the configuration; None: there is no file
    to follow. Returns when every process, task and socket it made is gone, also when it raises: `PortError` when a
    port cannot be had, `TLSError` when certificates cannot be used, `WorkerStartError` when the workers do not start,
    `KeysFileError` when the keys cannot be read.
    """
    keys = options.key_source.read() if options.key_source is not None else ()
    planes = (options.management_tls, options.observability_tls)
    doors_tls = [None if plane is None else plane.server() for plane in planes]
    tls = options.settings.tls
    if tls is not None:
        tls.door()  # workers have their own: what is wrong is told here, and in words
    to_engines = tls.to_engines() if tls is not None else None
    with _ports(options) as sockets, _ledger(options) as (ledger, descriptor):
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
            keys=keys,
        )
        desk = OperatorDesk(operator)
        pool = WorkerPool(options.worker_module, first, ledger, descriptor, options.worker_timeout, desk)
        settings = options.settings
        fleet = KnownFleet(LEDGER_ROWS, PairingRules(settings.deploy_mode, settings.callback_host))
        stop, hurry = asyncio.Event(), asyncio.Event()
        with _end_requests(stop, hurry, options.parent_pipe):
            reading = reading_engines(fleet, ledger, options.settings.engine_load_interval, to_engines)
            source.follow(ToldFleet(fleet, ledger, pool))
            doors = Doors(settings.keys, keys, options.door_token, options.open_doors)
            async with contextlib.AsyncExitStack() as opened:
                engines = await opened.enter_async_context(
                    scraping_engines(fleet, settings.metrics_reuse_time, to_engines)
                )
                overview = Overview(fleet, ledger, pool, source, engines, live)
                page = await opened.enter_async_context(_dashboard(overview, pool, fleet, ledger, engines, settings))
                for part in (
                    doors.attended(options.key_source, pool.publish_keys),
                    _admin(overview, page, sockets, doors, doors_tls),
                    reading,
                    desk.attended(overview),
                ):
                    await opened.enter_async_context(part)
                following = asyncio.create_task(_follow(source, fleet, pool))
                running = asyncio.create_task(pool.run())
                renewing = asyncio.create_task(live.follow(pool)) if live is not None else None
                announcing = asyncio.create_task(
                    _announce(pool, announce, url_of(sockets.inference, secure=tls is not None))
                )
                stopping = asyncio.create_task(stop.wait())
                graceful = False
                try:
                    await asyncio.wait([following, running, stopping], return_when=asyncio.FIRST_COMPLETED)
                    graceful = stopping.done()
                finally:
                    announcing.cancel()
                    stopping.cancel()
                    if renewing is not None:
                        renewing.cancel()
                        await asyncio.gather(renewing, return_exceptions=True)
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
def _ledger(options: CoordinatorOptions) -> Iterator[tuple[Ledger, int]]:
    workers = options.workers
    behind = size_of(workers, BUCKETS) if options.settings.rates is not None else 0
    descriptor = Ledger.allocate(columns=workers, rows=LEDGER_ROWS, behind=behind)
    try:
        yield Ledger(descriptor, columns=workers, rows=LEDGER_ROWS, column=None), descriptor
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def _dashboard(
    overview: Overview, pool: WorkerPool, fleet: KnownFleet, ledger: Ledger, engines: EngineScrapes, settings: Settings
) -> AsyncIterator[Page | None]:
    """The dashboard as long as the block runs; None where nobody wants it."""
    if not settings.dashboard.enable:
        yield None
        return
    files = page_files()
    async with keeping_board(overview, pool, fleet, ledger, engines) as board:
        yield Page(dashboard_routes(board, files), tuple(files))


@contextlib.asynccontextmanager
async def _admin(
    overview: Overview, page: Page | None, sockets: Sockets, doors: Doors, tls: Sequence[ServerTLS | None]
) -> AsyncIterator[None]:
    """The admin servers that have a port, as long as the block runs. `tls`: their certificates."""
    routes, paths = ((page.routes,), page.paths) if page is not None else ((), ())
    served = [
        (
            AdminServer(door, tls=certificates),
            listening,
            url_of(listening, secure=certificates is not None),
            subject,
        )
        for door, listening, subject, certificates in (
            (
                doors.before(management_app(overview, routes), "management", paths),
                sockets.management,
                "management",
                tls[0],
            ),
            (doors.before(observability_app(overview), "observability"), sockets.observability, "metrics", tls[1]),
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


def _end_requests(stop: asyncio.Event, hurry: asyncio.Event, parent_pipe: int | None) -> AbstractContextManager[None]:
    """Set `stop` at SIGTERM, SIGINT or when the parent is gone, and `hurry` when a signal comes again."""
    signalled = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if signalled.is_set():
            logger.warning("%s again: running requests are given up", number.name)
            hurry.set()
        else:
            logger.info("%s: running requests are finished, then the Coordinator ends", number.name)
            # Not the same as `stop`: a parent that got the signal too may be gone before it comes here.
            signalled.set()
            stop.set()

    def on_parent_gone() -> None:
        logger.info("the parent is gone: running requests are finished, then the Coordinator ends")
        stop.set()

    return end_requests(on_signal, on_parent_gone, parent_pipe)
