"""One conductor process: its port, the fleet that it follows, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymotor.config import UserConfig
from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.control_plane.ending import end_requests
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import http_url, listen_alone
from pymotor.control_plane.serving import HTTPConnection
from pymotor.control_plane.tls import ClientTLS
from pymotor.kv_conductor.fleet_watch import FleetTeller
from pymotor.kv_conductor.following import Following
from pymotor.kv_conductor.frames import CoordinatorConnection
from pymotor.kv_conductor.front_door import FrontDoor, OtherVersions
from pymotor.kv_conductor.http_api import conductor_app
from pymotor.kv_conductor.instruments import Figures

logger = logging.getLogger(__name__)


class ConductorError(Exception):
    """The conductor cannot start; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class ConductorOptions:
    """What one conductor is started with."""

    host: str
    port: int
    """0: any free one."""
    parent_pipe: int | None = None
    management_tls: PlaneTLS | None = None
    """Of its port; None: HTTP and frames in clear."""
    to_engines: ClientTLS | None = None
    """For engines at https addresses."""


async def run_conductor(
    options: ConductorOptions,
    fleet: FleetTeller,
    user: UserConfig | None,
    token: ClusterToken | None,
    announce: Callable[[str], None],
) -> None:
    """Run until SIGTERM, SIGINT or the parent's end. `announce` gets the URL once it answers.

    Raises `PortError` when the port cannot be had, `TLSError` when certificates cannot be used.
    """
    management = options.management_tls
    tls = management.server() if management is not None else None
    with contextlib.closing(listen_alone(options.host, options.port, "--port")) as listening:
        figures = Figures()
        connections: set[CoordinatorConnection] = set()
        others = OtherVersions()

        def tell() -> None:
            for connection in tuple(connections):
                connection.tell_followed()

        following = Following(user, figures, tell, options.to_engines)

        def speak(**arguments: Any) -> asyncio.Protocol:
            return FrontDoor(
                lambda: HTTPConnection(**arguments),
                lambda: CoordinatorConnection(following.answers, token, figures, connections),
                others,
            )

        server = AdminServer(conductor_app(following, figures, token), graceful_seconds=1, protocol=speak, tls=tls)
        stop = asyncio.Event()

        def on_parent_gone() -> None:
            logger.info("the parent is gone: the KV Conductor ends")
            stop.set()

        with end_requests(lambda number: stop.set(), on_parent_gone, options.parent_pipe):  # noqa: ARG005
            port = listening.getsockname()[1]
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(_follow(fleet, following)),
                asyncio.create_task(
                    _announce(server, announce, http_url(options.host, port, secure=management is not None))
                ),
            ]
            serving = asyncio.create_task(server.serve_on(listening))
            stopping = asyncio.create_task(stop.wait())
            try:
                await _first_end([*tasks, serving, stopping], stopping)
            finally:
                for task in (*tasks, stopping):
                    task.cancel()
                await asyncio.wait({*tasks, stopping})
                await following.close()
                for connection in tuple(connections):
                    connection.close()
                server.finish()
                await serving


async def _first_end(tasks: list[asyncio.Task[Any]], stopping: asyncio.Task[bool]) -> None:
    """Return when `stopping` is done; raises what another task raised before."""
    waited = set(tasks)
    while not stopping.done():
        done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _follow(fleet: FleetTeller, following: Following) -> None:
    async with contextlib.aclosing(fleet.snapshots()) as snapshots:
        async for snapshot in snapshots:
            following.take_fleet(snapshot)


async def _announce(server: AdminServer, announce: Callable[[str], None], url: str) -> None:
    while not server.started:  # noqa: ASYNC110  uvicorn offers no event
        await asyncio.sleep(0.02)
    announce(url)
