"""The processes of one fleet: started together, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.asking import asking_client
from pymotor.engines import KeptServers
from pymotor.engines.kept_servers import all_or_none
from pymotor.fleet import ENDED_ON_PURPOSE, EndpointState, InstanceState, Role
from pymotor.local.controller_view import ControllerView, SeenFleet
from pymotor.local.events import Event, ProcessChanged, ProcessState
from pymotor.local.full_disk import unless_full
from pymotor.local.giving_up import GivingUp
from pymotor.local.health_watch import HEALTH_TIMEOUT, HealthWatch
from pymotor.local.local_nodes import LocalNodes
from pymotor.local.own_processes import OwnProcesses, quote
from pymotor.local.plan import COORDINATOR_GRACE, NODE_GRACE, FleetPlan
from pymotor.local.processes import ProcessIdentity
from pymotor.local.seen_servers import SeenServers
from pymotor.local.state import FleetDirectory, FleetError

READINESS_INTERVAL = 0.05
SERVING_SECONDS = 30.0
"""For the Coordinator to learn that all engines are ready, and to serve."""
CONTROLLER_GRACE = 3.0
CONDUCTOR_GRACE = 3.0


class LocalFleet:
    """Controller, Coordinator, KV Conductor and NodeManagers as processes of this machine.

    `start()`, then `watch()`, and `stop()` on every way out. All start side by side; the Coordinator answers 503 until
    the engines are ready. From then on what ends, or is silent for too long, starts again: engines by their
    NodeManagers, the rest by this. A NodeManager that was released ends for good, and what is missing of the
    numbers that the Controller wants is started.
    """

    on_change: Callable[[], None] | None = None
    """Called when `processes` are others than before."""

    def __init__(
        self,
        plan: FleetPlan,
        directory: FleetDirectory,
        token: ClusterToken,
        show: Callable[[Event], None],
        start_deadline: float,
        began: float,
    ) -> None:
        """`start_deadline`: seconds that each process may take to become ready. `began`: `time.monotonic()` from
        which seconds are counted in what is shown. To be made within the event loop."""
        self._plan = plan
        self._directory = directory
        self._show = show
        self._began = began
        management = plan.ports.management_tls
        self._tls = tls = management.client() if management is not None else None
        self._view = ControllerView(plan.ports.url(plan.ports.controller), token.header, tls)
        self._servers = SeenServers(self._tell, show, directory.log_file)
        self._giving_up = GivingUp()
        self._own = OwnProcesses(
            directory.log_file,
            start_deadline,
            self._tell,
            show,
            changed=self._changed,
            goes_on=self._giving_up.goes_on,
        )
        self._controller = self._own.kept(plan.controller, CONTROLLER_GRACE)
        self._coordinator = self._own.kept(plan.coordinator, COORDINATOR_GRACE + 1.0)
        conductor = plan.conductor
        self._conductors = () if conductor is None else (self._own.kept(conductor, CONDUCTOR_GRACE),)
        self._nodes = LocalNodes(plan, self._own, show, self._giving_up.fail)
        self._giving_up.indispensable = (self._coordinator, self._controller)
        self._seen: SeenFleet | None = None

    @property
    def processes(self) -> dict[str, ProcessIdentity]:
        """What was started so far, by name, engines included."""
        return {**self._own.identities, **self._servers.identities}

    async def start(self) -> None:
        """Return when the Coordinator says that the fleet can serve.

        Raises `EngineStartError` or `FleetError` as soon as one process fails. The caller stops the rest.
        """
        await all_or_none(
            [kept.start() for kept in self._everybody]
            + [unless_full(self._directory.path, asyncio.create_task(self._wait_active()))]
        )
        await self._wait_serving()

    async def watch(self) -> str:
        """Return when the fleet cannot answer any more and starting again did not help, with the reason."""
        self._nodes.keep()
        watched = (self._controller, self._coordinator, *self._conductors)
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(kept.keep()) for kept in watched]
        tasks += [
            asyncio.create_task(self._follow()),
            asyncio.create_task(HealthWatch(watched, self._show, self._tls).run()),
        ]
        try:
            either: list[asyncio.Future[Any]] = [self._giving_up.reason, *tasks]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            return await self._giving_up.reason
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._nodes.cancel()

    async def stop(self, hurry: asyncio.Event) -> None:
        """End every process: first the Coordinator, which lets go of its requests, then the engines, last the
        Controller, which NodeManagers report to.

        Once `hurry` is set nothing gets any more time. Returns when nothing of them is left.
        """
        hurried = asyncio.create_task(self._stop_at_once(hurry))
        try:
            await self._own.stop(self._coordinator, 0.0 if hurry.is_set() else COORDINATOR_GRACE + 1.0)
            for conductor in self._conductors:
                await self._own.stop(conductor, 0.0 if hurry.is_set() else CONDUCTOR_GRACE)
            # Nobody asks the engines any more, so there is nothing to drain: without a Controller they end at once.
            await self._own.stop(self._controller, 0.0 if hurry.is_set() else CONTROLLER_GRACE)
            await self._nodes.stop(0.0 if hurry.is_set() else NODE_GRACE)
            self._servers.all_stopped()
        finally:
            hurried.cancel()
            await asyncio.gather(hurried, return_exceptions=True)

    @property
    def _everybody(self) -> tuple[KeptServers, ...]:
        return (self._controller, self._coordinator, *self._conductors, *self._nodes.kept)

    async def _wait_active(self) -> None:
        """Wait until every instance is active. Raises `FleetError` when an engine fails."""
        async with contextlib.aclosing(self._view.changes()) as changes:
            async for seen in changes:
                self._note(seen)
                _refuse_failed(seen)
                active = Counter(one.role for one in seen.instances if one.state is InstanceState.ACTIVE)
                if all(active[role] >= number for role, number in self._awaited(seen).items()):
                    return

    def _awaited(self, seen: SeenFleet) -> dict[Role, int]:
        """How many instances of each role have to be active before the fleet is up: those of the configuration, or
        fewer where somebody has already asked for fewer."""
        planned = Counter(node.role for node in self._plan.nodes)
        targets = {role.role: role.target for role in seen.roles if role.target is not None}
        return {role: min(number, targets.get(role, number)) for role, number in planned.items()}

    async def _follow(self) -> None:
        """Show what changes, have as many nodes as are wanted. Never returns."""
        async with contextlib.aclosing(self._view.changes()) as changes:
            async for seen in changes:
                self._note(seen)
                self._giving_up.goes_on()
                await self._nodes.follow(seen)

    def _note(self, seen: SeenFleet) -> None:
        self._seen = seen
        self._giving_up.note(seen, time.monotonic())
        if self._servers.note(seen):
            self._changed()

    async def _wait_serving(self) -> None:
        """Wait until the Coordinator has learnt that all are ready, and serves."""
        (coordinator,) = self._coordinator.processes
        url = f"{coordinator.plan.endpoint.url}/instances"
        deadline = time.monotonic() + SERVING_SECONDS
        answer: object = "no answer"
        async with asking_client(self._tls, timeout=HEALTH_TIMEOUT) as client:
            while time.monotonic() < deadline and coordinator.running:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    answer = (await client.get(url)).json()
                    if isinstance(answer, dict) and self._serves(answer):
                        return
                await asyncio.sleep(READINESS_INTERVAL)
        if coordinator.running:
            raise FleetError(f"all engines are ready, but the Coordinator does not serve: {url} says {answer}")
        raise FleetError(f"the Coordinator ended ({coordinator.end_in_words()}){quote(coordinator)}")

    def _serves(self, report: dict[str, Any]) -> bool:
        assert self._seen is not None
        known = report.get("version")
        return bool(report.get("ready")) and isinstance(known, int) and known >= self._seen.version

    async def _stop_at_once(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        await asyncio.gather(*(kept.stop(0.0) for kept in self._everybody))

    def _tell(self, name: str, state: ProcessState, detail: str) -> None:
        self._show(ProcessChanged(name, state, time.monotonic() - self._began, detail))

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _refuse_failed(seen: SeenFleet) -> None:
    """Raises `FleetError` when an engine did not come up."""
    for node in seen.nodes:
        if node.problem:
            raise FleetError(f"{node.instance or node.name}: {node.problem}")
        for server in node.servers:
            if server.state is EndpointState.GONE and server.detail not in ("", ENDED_ON_PURPOSE):
                raise FleetError(server.detail)
