"""The servers of one order: started, kept, told of and ended; nothing of them outlives `stop()`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from pymotor.engines import EngineProcess, InstancePlan, KeptServers, ServerPlan
from pymotor.engines.metrics_reading import EngineLoad
from pymotor.fleet import (
    ENDED_ON_PURPOSE,
    EndpointState,
    Instance,
    InstanceState,
    NodeOrder,
    Role,
    ServerReport,
    SoftwareFault,
)
from pymotor.node_manager.following import RunKey
from pymotor.node_manager.planning import PlannedOrder

logger = logging.getLogger(__name__)

ENGINE_DEAD, ENGINE_UNHEALTHY = 0x1000001, 0x1000002
_LONGEST_DETAIL = 2000


@dataclass
class _Server:
    """What is known of one server, through all its runs."""

    plan: ServerPlan
    state: EndpointState = EndpointState.STARTING
    detail: str = ""
    ends: int = 0
    """How often it ended, or did not start; each time it was started again, or is to be."""
    process: EngineProcess | None = None
    load: EngineLoad | None = None
    """None: not read, or not lately."""


class RunningOrder:
    """The servers of one generation on this node. `begin()` once, and `stop()` on every way out."""

    def __init__(
        self,
        order: NodeOrder,
        planned: PlannedOrder,
        log_directory: Path,
        start_timeout: float,
        changed: Callable[[], None],
    ) -> None:
        """`start_timeout`: seconds until a server answers. `changed` is called when there is something to report."""
        self.key = RunKey.of(order)
        self._plan: InstancePlan = planned.plan
        self._claims = planned.claims
        self._changed = changed
        self._alone = order.nodes == 1
        self._servers = {server.name: _Server(server) for server in planned.plan.servers}
        self._kept = KeptServers(
            planned.plan.servers,
            lambda name: log_directory / f"{name}.log",
            start_timeout,
            self._tell,
            order.stop_seconds,
            lambda: self._plan.renewed().servers,
        )
        self._ending = False
        self.task: asyncio.Task[None] | None = None
        """Ends by itself when a server of several nodes is gone; has an exception only where this program is wrong."""

    def begin(self) -> None:
        """Start the servers, and keep them running where no other node has to start with them."""
        self.task = asyncio.create_task(self._kept.run() if self._alone else self._kept.run_once())

    async def stop(self, grace: float, hurry: asyncio.Event) -> None:
        """End the servers: SIGTERM, after `grace` seconds, or once `hurry` is set, SIGKILL. Returns when nothing of
        them is left and their ports are free again."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self._ending = True
        for server in self._servers.values():
            server.state, server.detail, server.load = EndpointState.GONE, ENDED_ON_PURPOSE, None
        self._changed()
        hurried = asyncio.create_task(self._stop_at_once(hurry))
        try:
            await self._kept.stop(0.0 if hurry.is_set() else grace)
        finally:
            hurried.cancel()
            await asyncio.gather(hurried, return_exceptions=True)
            self._claims.close()

    async def _stop_at_once(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        await self._kept.stop(0.0)

    # -- what others see

    @property
    def role(self) -> Role:
        """What they play."""
        return self._plan.instance.role

    @property
    def engine(self) -> str:
        """Which kind of engine these are."""
        return self._plan.instance.engine

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the planner had to leave out or change."""
        return self._plan.warnings

    @property
    def model(self) -> str:
        """A name by which the engines can be asked."""
        return self._plan.instance.models[0]

    @property
    def ready(self) -> bool:
        """Whether all servers are."""
        return all(server.state is EndpointState.READY for server in self._servers.values())

    @property
    def answering(self) -> list[EngineProcess]:
        """The servers with an HTTP endpoint that were ready and have not ended since."""
        return [
            server.process
            for server in self._servers.values()
            if server.process is not None
            and server.process.running
            and not server.plan.headless
            and server.state in (EndpointState.READY, EndpointState.UNHEALTHY)
        ]

    def server_reports(self) -> tuple[ServerReport, ...]:
        """All servers as they are now."""
        return tuple(_report(server) for server in self._servers.values())

    def faults(self) -> tuple[SoftwareFault, ...]:
        """What is wrong with them, but for servers that were ended on purpose."""
        if self._ending:
            return ()
        codes = {EndpointState.GONE: ENGINE_DEAD, EndpointState.UNHEALTHY: ENGINE_UNHEALTHY}
        return tuple(
            SoftwareFault(code=codes[server.state], message=server.detail, server=name)
            for name, server in self._servers.items()
            if server.state in codes
        )

    def share(self, order: NodeOrder) -> Instance:
        """This node's part of the instance as it stands in the fleet."""
        states = {server.plan.endpoint.id: server.state for server in self._servers.values()}
        instance = self._plan.instance
        endpoints = tuple(replace(one, state=states[one.id]) for one in instance.endpoints)
        bad = [server for server in self._servers.values() if server.state in _BAD]
        fault = "; ".join(f"its server {one.plan.name}: {one.detail.partition(chr(10))[0]}" for one in bad)
        capacities = [
            one.load.kv_capacity_tokens
            for one in self._servers.values()
            if one.load is not None and one.load.kv_capacity_tokens is not None
        ]
        return replace(
            instance,
            state=_instance_state(set(states.values()), order),
            endpoints=endpoints,
            fault=fault or ("it is cordoned" if order.cordoned else ""),
            kv_capacity_tokens=instance.kv_capacity_tokens or min(capacities, default=None),
        )

    # -- what is told of them

    def mark(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        """A server that runs is healthy or not."""
        server = self._servers[process.plan.name]
        if server.process is process and process.running and (server.state, server.detail) != (state, detail):
            server.state, server.detail = state, detail
            self._changed()

    def note_load(self, process: EngineProcess, load: EngineLoad | None) -> None:
        """What a server says of its load, None when it did not say. Goes out with the next report."""
        server = self._servers[process.plan.name]
        if server.process is process:
            server.load = load

    def _tell(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        server = self._servers[process.plan.name]
        server.state, server.detail, server.process, server.load = state, detail[:_LONGEST_DETAIL], process, None
        if state is EndpointState.GONE:
            server.ends += 1
            logger.warning("%s is gone: %s", process.plan.name, detail)
        else:
            logger.info("%s is %s", process.plan.name, state.value)
        self._changed()


_BAD = (EndpointState.GONE, EndpointState.UNHEALTHY)


def _report(server: _Server) -> ServerReport:
    load = server.load
    requests, waiting = (load.requests, load.waiting or 0) if load is not None else (None, 0)
    return ServerReport(
        name=server.plan.name,
        state=server.state,
        endpoint_id="" if server.plan.headless else server.plan.endpoint.id,
        process_id=server.process.process_id if server.process is not None and server.process.running else None,
        detail=server.detail,
        restarts=server.ends,
        running=requests - waiting if requests is not None else 0,
        waiting=waiting,
        kv_usage=load.kv_usage if load is not None else None,
        load_known=requests is not None,
    )


def _instance_state(states: set[EndpointState], order: NodeOrder) -> InstanceState:
    if order.draining:
        return InstanceState.DRAINING
    if order.cordoned or states & set(_BAD):
        return InstanceState.INACTIVE
    return InstanceState.ACTIVE if states == {EndpointState.READY} else InstanceState.INITIAL
