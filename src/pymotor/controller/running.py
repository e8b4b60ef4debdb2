"""One Controller process: its port, its terms as leader, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator

import msgspec

from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.controller.leadership import Leadership
from pymotor.controller.lease import Lease
from pymotor.controller.messages_app import controller_app
from pymotor.controller.observability_app import alarm_intake
from pymotor.controller.oversight import Oversight, OversightSettings
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import ControllerSettings

logger = logging.getLogger(__name__)


class ControllerError(Exception):
    """The Controller cannot start; the message says why and what to do."""


class ControllerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one Controller is started with."""

    settings: ControllerSettings
    host: str
    port: int
    """0: any free one."""
    advertised_host: str
    """Where others dial it; empty: `host`."""
    name: str
    """Unique with each run."""
    standby: bool
    """Whether another one may lead."""
    lease_seconds: float
    retry_seconds: float
    """Between tries to become leader."""
    parent_pipe: int | None = None
    oversight: OversightSettings = OversightSettings()


async def run_controller(
    options: ControllerOptions, lease: Lease, token: ClusterToken | None, announce: Callable[[str], None]
) -> None:
    """Run until SIGTERM, SIGINT or the parent's end. `announce` gets the URL once it answers.

    Raises `ControllerError` when the port cannot be had, or another Controller leads and this is no standby.
    """
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(contextlib.closing(_listen(options.host, options.port)))
        observed = None
        if options.oversight.observability_port is not None:
            observed = sockets.enter_context(
                contextlib.closing(_listen(options.host, options.oversight.observability_port))
            )
            logger.info("observability on %s", _url(options.host, observed.getsockname()[1]))
        port = listening.getsockname()[1]
        url = _url(options.advertised_host or options.host, port)
        leadership = Leadership(lease, options.name, url, options.lease_seconds)
        service = ControllerService(leadership, options.settings)
        oversight = Oversight(service, options.oversight)
        app = controller_app(service, token)
        app.include_router(alarm_intake(oversight.log, leads=lambda: service.leads, token=token))
        server = AdminServer(app, graceful_seconds=1)
        stop = asyncio.Event()
        with _end_requests(stop, options.parent_pipe):
            serving = asyncio.create_task(server.serve_on(listening))
            leading = asyncio.create_task(_lead(service, options))
            announcing = asyncio.create_task(_announce(service, server, options, announce, url))
            stopping = asyncio.create_task(stop.wait())
            async with oversight.running(observed, token):
                try:
                    await _first_end(serving, leading, announcing, stopping)
                finally:
                    service.end_term()
                    for task in (leading, announcing, stopping):
                        task.cancel()
                    await asyncio.wait({leading, announcing, stopping})
                    await leadership.hand_back()
                    server.finish()
                    await serving


async def _first_end(
    serving: asyncio.Task[None],
    leading: asyncio.Task[None],
    announcing: asyncio.Task[None],
    stopping: asyncio.Task[bool],
) -> None:
    waited: set[asyncio.Task[None] | asyncio.Task[bool]] = {serving, leading, announcing, stopping}
    while not stopping.done():
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        waited -= done


async def _lead(service: ControllerService, options: ControllerOptions) -> None:
    async for epoch in service.leadership.terms(options.retry_seconds):
        await service.lead(epoch)


async def _announce(
    service: ControllerService,
    server: AdminServer,
    options: ControllerOptions,
    announce: Callable[[str], None],
    url: str,
) -> None:
    """Say that it is ready once it answers, and leads where nobody else may."""
    ends = asyncio.get_running_loop().time() + 2 * options.lease_seconds
    while not server.started or not (options.standby or service.leads):
        if asyncio.get_running_loop().time() > ends:
            where = f" at {service.leadership.other}" if service.leadership.other else ""
            raise ControllerError(
                f"another Controller leads{where}; stop it, choose another --state-dir, or set "
                "standby_config.enable_master_standby"
            )
        await asyncio.sleep(0.02)
    announce(url)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(512)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ControllerError(f"cannot listen on {host} port {port}: {error}; see --host and --port") from error
    return bound


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _end_requests(stop: asyncio.Event, parent_pipe: int | None) -> Iterator[None]:
    """Set `stop` at SIGTERM, SIGINT or when the parent is gone."""
    loop = asyncio.get_running_loop()

    def on_parent(descriptor: int) -> None:
        try:
            alive = bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return
        except OSError:
            alive = False
        if not alive:
            loop.remove_reader(descriptor)
            logger.info("the parent is gone: the Controller ends")
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
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
