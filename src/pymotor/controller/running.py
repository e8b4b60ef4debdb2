"""One Controller process: its port, its terms as leader, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager

import msgspec

from pymotor.config import NotAppliedError
from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.control_plane.ending import end_requests
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import PortError, http_url, listen_alone
from pymotor.controller.leadership import Leadership
from pymotor.controller.lease import Lease
from pymotor.controller.live_settings import ConfigWatch
from pymotor.controller.messages_app import controller_app
from pymotor.controller.observability_app import alarm_intake
from pymotor.controller.oversight import Oversight, OversightSettings
from pymotor.controller.passing_on import LeaderTLS
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import ControllerSettings

logger = logging.getLogger(__name__)


_OBSERVABILITY_KEY = "api_config.observability_api_port"


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
    passes_on: bool = False
    """Whether a standby passes on what it is asked to the leader: behind one Service a request may come to either."""
    lease_seconds: float
    retry_seconds: float
    """Between tries to become leader."""
    parent_pipe: int | None = None
    oversight: OversightSettings = OversightSettings()
    management_tls: PlaneTLS | None = None
    """Of its port; None: plain HTTP."""
    observability_tls: PlaneTLS | None = None
    """Of the observability API."""
    leader_name: str = ""
    """What the certificate of another Controller says, which is dialled by an address; empty: that address."""


async def run_controller(
    options: ControllerOptions,
    lease: Lease,
    token: ClusterToken | None,
    announce: Callable[[str], None],
    watch: ConfigWatch | None = None,
) -> None:
    """Run until SIGTERM, SIGINT or the parent's end. `announce` gets the URL once it answers. `watch` follows the
    configuration; None: there is no file to follow.

    Raises `PortError` when a port cannot be had, `TLSError` when certificates cannot be used, and `ControllerError`
    when another Controller leads and this is no standby.
    """
    management, observability = options.management_tls, options.observability_tls
    tls = management.server() if management is not None else None
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(contextlib.closing(listen_alone(options.host, options.port, "--port")))
        observed = None
        if options.oversight.observability_port is not None:
            observed = sockets.enter_context(
                contextlib.closing(listen_alone(options.host, options.oversight.observability_port, _OBSERVABILITY_KEY))
            )
            logger.info(
                "observability on %s",
                http_url(options.host, observed.getsockname()[1], secure=observability is not None),
            )
        port = listening.getsockname()[1]
        url = http_url(options.advertised_host or options.host, port, secure=management is not None)
        leadership = Leadership(lease, options.name, url, options.lease_seconds)
        service = ControllerService(leadership, options.settings)
        oversight = Oversight(
            service,
            options.oversight,
            passes_on=options.passes_on,
            tls=observability.server() if observability is not None else None,
            leader_tls=_leader_tls(observability, options.leader_name),
        )
        app = controller_app(
            service,
            token,
            None if watch is None else lambda: watch.state,
            passes_on=options.passes_on,
            leader_tls=_leader_tls(management, options.leader_name),
        )
        app.include_router(alarm_intake(oversight.log, leads=lambda: service.leads, token=token))
        server = AdminServer(app, graceful_seconds=1, tls=tls)
        stop = asyncio.Event()
        with _end_requests(stop, options.parent_pipe):
            serving = asyncio.create_task(server.serve_on(listening))
            leading = asyncio.create_task(_lead(service, options))
            announcing = asyncio.create_task(_announce(service, server, options, announce, url))
            stopping = asyncio.create_task(stop.wait())
            async with oversight.running(observed, token), _following(watch, service, oversight, options.host):
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


def _leader_tls(plane: PlaneTLS | None, name: str) -> LeaderTLS | None:
    return None if plane is None else LeaderTLS(plane.client(), plane.peer_name or name)


@contextlib.asynccontextmanager
async def _following(
    watch: ConfigWatch | None, service: ControllerService, oversight: Oversight, host: str
) -> AsyncGenerator[None, None]:
    """Follow the configuration for as long as the context lasts."""
    if watch is None:
        yield
        return

    def listen(port: int) -> socket.socket:
        try:
            return listen_alone(host, port, _OBSERVABILITY_KEY)
        except PortError as error:
            raise NotAppliedError(f"the observability API is not served: {error}") from error

    following = asyncio.create_task(watch.follow(service, oversight, listen))
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])


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


def _end_requests(stop: asyncio.Event, parent_pipe: int | None) -> AbstractContextManager[None]:
    """Set `stop` at SIGTERM, SIGINT or when the parent is gone."""

    def on_parent_gone() -> None:
        logger.info("the parent is gone: the Controller ends")
        stop.set()

    return end_requests(lambda number: stop.set(), on_parent_gone, parent_pipe)  # noqa: ARG005  any of them
