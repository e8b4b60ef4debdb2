"""Faults, alarms and inventory of a running Controller: what it is set up with, and its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping

import msgspec

from pymotor.config import UserConfig
from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.controller.alarm_records import Origin
from pymotor.controller.alarms import AlarmLog, FleetAlarms
from pymotor.controller.faults.cluster_api import ClusterAccess, ClusterAPI, ClusterError, access_from_environment
from pymotor.controller.faults.cluster_watch import ClusterFaults, ClusterWatch
from pymotor.controller.faults.strategist import Strategist
from pymotor.controller.faults.view import Switches
from pymotor.controller.observability_app import observability_app
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
    ) -> None:
        """`variables`: the environment, of which alarms and inventory say who they are."""
        self._service = service
        self._settings = settings
        self._variables = variables
        # Where nothing is watched, that nothing is known is the whole truth.
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
        tasks = [asyncio.create_task(self.strategist.run(self._settings.interval))]
        if self._settings.cluster is not None:
            tasks.append(asyncio.create_task(self._watch(self._settings.cluster)))
        server = None
        if listening is not None:
            app = observability_app(
                self.log,
                self.strategist.view,
                variables=self._variables,
                leads=lambda: self._service.leads,
                token=token,
            )
            server = AdminServer(app, graceful_seconds=1)
            serving = asyncio.create_task(server.serve_on(listening))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if server is not None:
                server.finish()
                await serving

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
