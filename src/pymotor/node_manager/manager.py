"""One node: follows the Controller's newest order, reports how it stands, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from pymotor.config.engine import HealthCheckConfig
from pymotor.control_plane.tls import ClientTLS
from pymotor.engines.plan import new_id
from pymotor.fleet import NodeOrder, NodeReport, ReportReply, Role
from pymotor.node_manager.controllers import ControllerList
from pymotor.node_manager.ending import EndRequests
from pymotor.node_manager.following import HeldOrder, RunKey, Step, next_step
from pymotor.node_manager.health import HealthWatch
from pymotor.node_manager.loads import LoadReadings
from pymotor.node_manager.planning import OrderError, OrderPlanner
from pymotor.node_manager.reporting import Reporting, engine_client, http_client
from pymotor.node_manager.running import RunningOrder
from pymotor.node_manager.settings import NodeSettings

logger = logging.getLogger(__name__)

PLAN_AGAIN_SECONDS = 60.0
"""After so long an order that could not be planned is tried again."""


class NodeManager:
    """Made inside the event loop; `run()` once."""

    def __init__(
        self,
        settings: NodeSettings,
        planner: OrderPlanner,
        health_of: Callable[[Role], HealthCheckConfig],
        to_engines: ClientTLS | None = None,
        to_controllers: ClientTLS | None = None,
    ) -> None:
        """`health_of`: how a role's engines are watched; the Controller may order any that the node can play.
        `to_engines`: for engines that speak TLS; `to_controllers`: for Controllers, where management speaks it."""
        self._settings = settings
        self._to_controllers = to_controllers
        self._planner = planner
        self._health_of = health_of
        self._to_engines = to_engines
        self._incarnation = new_id()
        self._sequence = 0
        self._holds = HeldOrder()
        self._running: RunningOrder | None = None
        self._failed: RunKey | None = None
        self._problem = ""
        self._ends = EndRequests()
        self._wake = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []
        self._heartbeat = settings.heartbeat_seconds
        self._paced: list[Reporting | LoadReadings] = []

    async def run(self, announce: Callable[[str], None], beside: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Live until it is asked to end or released. `announce` gets the URL of the first Controller once reports
        begin. `beside` runs as long, and is cancelled then. Nothing of the engines is left when this returns or
        raises."""
        controllers = ControllerList(self._settings.controllers)
        async with (
            http_client(controllers.urls, self._to_controllers) as to_controllers,
            engine_client(self._to_engines) as to_engines,
        ):
            interval = self._heartbeat
            reporting = Reporting(
                to_controllers, controllers, self._settings.token, self._next_report, self._take, interval
            )
            loads = LoadReadings(to_engines, lambda: self._running, lambda: self._draining, interval, reporting.changed)
            health = HealthWatch(to_engines, lambda: self._running, self._health_of)
            self._paced = [reporting, loads]
            self._on_change = [reporting.changed, loads.hurry]
            with self._ends.listening(self._settings.parent_pipe):
                announce(controllers.current)
                await self._live([reporting.run, loads.run, health.run, *beside])
                await reporting.last()

    async def _live(self, beside: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Follow orders to the end while all that is beside goes on; what ends there is a mistake, and raised."""
        tasks = [asyncio.ensure_future(run()) for run in beside]
        following = asyncio.create_task(self._follow())
        grace = 0.0
        try:
            await asyncio.wait([following, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in (following, *tasks):
                if task.done():
                    task.result()
            grace = self._stop_seconds
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await self._stop(grace)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def set_heartbeat(self, seconds: float) -> None:
        """Report, and read the engines' load, so often from now on."""
        self._heartbeat = seconds
        for paced in self._paced:
            paced.interval = seconds

    @property
    def ready(self) -> bool:
        """Whether it has servers and all of them are ready."""
        return self._running is not None and self._running.ready

    def report(self) -> NodeReport:
        """How the node stands, as in the last report or newer."""
        settings, order, running = self._settings, self._held, self._running
        return NodeReport(
            node=settings.node,
            incarnation=self._incarnation,
            sequence=self._sequence,
            job=settings.job,
            role=settings.role,
            roles=settings.roles,
            address=settings.address,
            machine=settings.machine,
            nodes_per_instance=settings.nodes_per_instance,
            preferred_number=settings.preferred_number,
            device_ids=tuple(str(device) for device in settings.devices or ()),
            ranktable=settings.ranktable,
            held=order,
            share=running.share(order) if running is not None and order is not None else None,
            servers=running.server_reports() if running is not None else (),
            started_generation=running.key.generation if running is not None else None,
            faults=running.faults() if running is not None else (),
            problem=self._problem,
            leaving=self._ends.leave.is_set(),
        )

    # -- what the Controller says and hears

    def _next_report(self, wait_seconds: float) -> NodeReport:
        self._sequence += 1
        return replace(self.report(), wait_seconds=wait_seconds)

    def _take(self, reply: ReportReply) -> bool:
        """Take the reply's order over; whether it is now the one that is held."""
        before = self._held
        taken = self._holds.take(reply)
        order = self._held
        if order is not None and order is not before:
            logger.info("order %d.%d: %s", *order.age, _in_words(order))
            if self._failed != RunKey.of(order):
                self._failed, self._problem = None, ""
            self._changed()
            self._wake.set()
        return taken

    def _changed(self) -> None:
        for tell in self._on_change:
            tell()

    @property
    def _held(self) -> NodeOrder | None:
        return self._holds.order

    @property
    def _draining(self) -> bool:
        return self._held is not None and self._held.draining

    @property
    def _stop_seconds(self) -> float:
        return self._held.stop_seconds if self._held is not None else 0.0

    # -- what is done about it

    async def _follow(self) -> None:
        """Do what the newest order says until nothing is wanted of this node any more."""
        leaving = asyncio.create_task(self._leave())
        try:
            while not leaving.done():
                self._wake.clear()
                runs = self._running.key if self._running is not None else None
                step = next_step(self._held, runs, self._failed, leaving=self._ends.leave.is_set())
                if step is Step.END:
                    logger.info("released: nothing is wanted of this node any more")
                    return
                if step is Step.START:
                    await self._start()
                elif step is Step.STOP:
                    await self._stop(self._stop_seconds)
                elif runs is None and self._ends.leave.is_set():
                    return
                else:
                    await self._rest(leaving)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _rest(self, leaving: asyncio.Future[None]) -> None:
        """Wait until there is something to decide. Raises what only a mistake of this program can have raised."""
        woken = asyncio.ensure_future(self._wake.wait())
        waited: set[asyncio.Future[Any]] = {woken, leaving}
        task = self._running.task if self._running is not None else None
        if task is not None and not task.done():
            waited.add(task)
        patience = PLAN_AGAIN_SECONDS if self._failed is not None else None
        try:
            done, _ = await asyncio.wait(waited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if not done:
            self._failed = None  # a port may be free by now, or a directory mounted
        if task is not None and task.done():
            task.result()

    async def _start(self) -> None:
        assert self._held is not None
        order = self._held
        try:
            planned = await asyncio.to_thread(self._planner.plan, order)
        except OrderError as error:
            self._failed = RunKey.of(order)
            if self._problem != str(error):
                logger.error("order %d.%d cannot be followed: %s", *order.age, error)
                self._problem = str(error)
                self._changed()
            return
        self._failed, self._problem = None, ""
        self._running = RunningOrder(
            order, planned, self._settings.log_directory, self._settings.start_timeout, self._changed
        )
        for warning in self._running.warnings:
            logger.warning("%s: %s", order.instance, warning)
        self._running.begin()
        self._changed()

    async def _stop(self, grace: float) -> None:
        if self._running is not None:
            await self._running.stop(grace, self._ends.hurry)
            self._running = None
            self._changed()

    async def _leave(self) -> None:
        """Return when the NodeManager does not wait any longer for the Controller to let it go."""
        await self._ends.leave.wait()
        self._changed()
        self._wake.set()
        stopped = asyncio.ensure_future(self._ends.stop.wait())
        try:
            done, _ = await asyncio.wait({stopped}, timeout=self._settings.grace)
        finally:
            stopped.cancel()
        if done:
            return
        logger.warning("not drained within %g s; the engines are ended", self._settings.grace)


def _in_words(order: NodeOrder) -> str:
    if order.released:
        return "released"
    if not order.instance:
        return "run nothing"
    extras = [word for word, on in (("draining", order.draining), ("cordoned", order.cordoned)) if on]
    place = f"generation {order.generation}, node {order.node_rank + 1} of {order.nodes}"
    return ", ".join([f"{order.instance} {place}", *extras])
