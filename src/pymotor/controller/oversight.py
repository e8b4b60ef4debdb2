"""Faults, alarms and inventory of a running Controller: what it is set up with, and its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

import msgspec

from pymotor.config import UserConfig
from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.control_plane.ports import http_url
from pymotor.control_plane.tls import ServerTLS
from pymotor.controller.alarm_records import Origin
from pymotor.controller.alarms import AlarmLog, FleetAlarms
from pymotor.controller.faults.cluster_api import ClusterAccess, ClusterAPI, ClusterError, access_from_environment
from pymotor.controller.faults.cluster_watch import ClusterFaults, ClusterWatch
from pymotor.controller.faults.strategist import Strategist
from pymotor.controller.faults.view import Switches
from pymotor.controller.observability_app import LONGEST_RECORD, observability_app
from pymotor.controller.passing_on import LeaderTLS, PassingOn
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import wanted_instances
from pymotor.fleet import Role

logger = logging.getLogger(__name__)

_WATCH_PAUSE = 30.0


class OversightSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration and the environment say of it."""

    switches: Switches = Switches()
    interval: float = 10.0
    """Seconds between two looks when nothing changes."""
    wanted: Mapping[Role, int] = {}
    """Instances by the configuration."""
    cluster: ClusterAccess | None = None
    """Where faults of hardware are told; None: nowhere."""
    configmap_namespace: str = "kube-system"
    configmap_prefix: str = "mindx-dl-deviceinfo-"
    observability_port: int | None = None
    """None: no observability API."""
    stands_by: bool = False
    """Whether another Controller may lead."""


def oversight_from(
    user: UserConfig, variables: Mapping[str, str] = os.environ, *, stands_by: bool = False
) -> OversightSettings:
    """What they say. `stands_by`: whether another Controller may lead."""
    config = user.motor_controller_config
    faults = config.fault_tolerance_config
    observed = config.observability_config.observability_enable
    return OversightSettings(
        switches=Switches(
            fault_tolerance=faults.enable_fault_tolerance,
            scale_p2d=faults.enable_scale_p2d,
            token_reinference=faults.enable_token_reinference,
            scale_p2d_wait=float(faults.scale_p2d_wait),
            scale_p2d_pause=float(faults.scale_p2d_pause),
            scale_p2d_release=faults.scale_p2d_release,
        ),
        interval=float(faults.strategy_center_check_interval),
        wanted=wanted_instances(user),
        cluster=access_from_environment(variables) if faults.enable_fault_tolerance else None,
        configmap_namespace=faults.configmap_namespace,
        configmap_prefix=faults.configmap_prefix,
        observability_port=config.api_config.observability_api_port if observed else None,
        stands_by=stands_by,
    )


class Oversight:
    """The parts of it, put together."""

    def __init__(
        self,
        service: ControllerService,
        settings: OversightSettings,
        variables: Mapping[str, str] = os.environ,
        *,
        passes_on: bool = False,
        tls: ServerTLS | None = None,
        leader_tls: LeaderTLS | None = None,
    ) -> None:
        """`variables`: the environment, of which alarms and inventory say who they are. `passes_on`: what is asked
        while another one leads goes on to that one's port of the same number. `tls`: certificates of the port, None for
        plain HTTP; `leader_tls`: how the leader is known then."""
        self._passes_on = passes_on
        self._tls = tls
        self._leader_tls = leader_tls
        self._service = service
        self._settings = settings
        self._token: ClusterToken | None = None
        self._watching: asyncio.Task[None] | None = None
        self._serving: tuple[AdminServer, asyncio.Task[None]] | None = None
        self._variables = variables
        self._faults = ClusterFaults(complete=settings.cluster is None)
        self.log = AlarmLog(Origin.from_environment(variables), time.time)
        self.strategist = Strategist(
            service,
            FleetAlarms(self.log),
            switches=settings.switches,
            wanted=settings.wanted,
            faults=lambda: self._faults,
            stands_by=settings.stands_by,
        )

    @contextlib.asynccontextmanager
    async def running(self, listening: socket.socket | None, token: ClusterToken | None) -> AsyncGenerator[None, None]:
        """Looks, watches and, on `listening`, answers, for as long as the context lasts."""
        self._token = token
        looking = asyncio.create_task(self.strategist.run(self._settings.interval))
        self._follow_cluster()
        if listening is not None:
            self._serve(listening)
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            await self._unfollow_cluster()
            await self._stop_serving()

    async def use(self, settings: OversightSettings, listen: Callable[[int], socket.socket]) -> None:
        """Go by these settings from now on, within `running`; `listen` takes the port of the observability API where
        that is new. Raises what `listen` raises; all else is done then."""
        former, self._settings = self._settings, settings
        self.strategist.use(settings.switches, settings.wanted, settings.interval)
        if settings.cluster != former.cluster:
            await self._unfollow_cluster()
            self._follow_cluster()
        if settings.observability_port is None:
            await self._stop_serving()
        elif self._serving is None:
            self._serve(listen(settings.observability_port))

    def _follow_cluster(self) -> None:
        if self._settings.cluster is not None:
            self._watching = asyncio.create_task(self._watch(self._settings.cluster))

    async def _unfollow_cluster(self) -> None:
        """What was known of hardware counts no more; where nothing is watched, nothing is the whole truth."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        self._faults = ClusterFaults(complete=self._settings.cluster is None)

    def _serve(self, listening: socket.socket) -> None:
        app = observability_app(
            self.log,
            self.strategist.view,
            variables=self._variables,
            leads=lambda: self._service.leads,
            token=self._token,
        )
        if self._passes_on:
            leader = partial(self._leader, listening.getsockname()[1])
            app.add_middleware(PassingOn, leader=leader, kept=(), longest_body=LONGEST_RECORD, tls=self._leader_tls)
        server = AdminServer(app, graceful_seconds=1, tls=self._tls)
        self._serving = (server, asyncio.create_task(server.serve_on(listening)))

    async def _stop_serving(self) -> None:
        if self._serving is not None:
            server, serving = self._serving
            self._serving = None
            server.finish()
            await serving

    def _leader(self, port: int) -> str:
        """Its URL there; empty where this one leads or none is known."""
        other = urlsplit(self._service.leadership.other)
        return http_url(other.hostname, port, secure=self._tls is not None) if other.hostname else ""

    async def _watch(self, access: ClusterAccess) -> None:
        def changed(faults: ClusterFaults) -> None:
            self._faults = faults
            self.strategist.wake()

        while True:
            try:
                async with ClusterAPI(access) as api:
                    await ClusterWatch(
                        api,
                        namespace=self._settings.configmap_namespace,
                        prefix=self._settings.configmap_prefix,
                        changed=changed,
                    ).run()
            except ClusterError as error:
                logger.error("faults of hardware are not watched: %s", error)
            except Exception:  # what is known stands; the fleet goes on without news of hardware
                logger.exception("the watch of hardware failed")
            await asyncio.sleep(_WATCH_PAUSE)
