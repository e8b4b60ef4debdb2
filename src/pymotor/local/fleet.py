"""The processes of one fleet: started together, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx

from pymotor.control_plane import ClusterToken
from pymotor.engines import EngineProcess, KeptServers, ServerPlan
from pymotor.engines.kept_servers import all_or_none
from pymotor.fleet import EndpointState, InstanceState, Role
from pymotor.local.controller_view import ControllerView, SeenFleet
from pymotor.local.events import Event, Note, ProcessChanged, ProcessState
from pymotor.local.plan import COORDINATOR_GRACE, NODE_GRACE, FleetPlan, NodePlan
from pymotor.local.processes import ProcessIdentity, identify
from pymotor.local.seen_servers import SeenServers
from pymotor.local.settling import Settling
from pymotor.local.state import FleetDirectory, FleetError

READINESS_INTERVAL = 0.05
SERVING_SECONDS = 30.0
"""For the Coordinator to learn that all engines are ready, and to serve."""
HEALTH_INTERVAL = 2.0
HEALTH_TIMEOUT = 5.0
FAILURES_UNTIL_ENDED = 15
"""In a row: after half a minute of bad answers, or a minute and a half of silence."""
NODE_SILENCE = 30.0
"""Seconds after which a NodeManager that the Controller does not hear of is ended, to start again."""
CONTROLLER_GRACE = 3.0
RESTARTS_IN_VAIN = 3
"""After so many a fleet that cannot answer is given up."""


class LocalFleet:
    """Controller, Coordinator and NodeManagers as processes of this machine.

    `start()`, then `watch()`, and `stop()` on every way out. All start side by side; the Coordinator answers 503 until
    the engines are ready. From then on what ends, or is silent for too long, starts again: engines by their
    NodeManagers, the rest by this. A NodeManager that was released ends for good, and what is missing of the
    numbers that the Controller wants is started.
    """

    on_start: Callable[[], None] | None = None
    """Called after each start of a process, when `processes` has it."""

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
        which seconds are counted in what is shown."""
        self._plan = plan
        self._log_file = directory.log_file
        self._show = show
        self._start_deadline = start_deadline
        self._began = began
        self._view = ControllerView(plan.ports.url(plan.ports.controller), token.header)
        self._servers = SeenServers(self._tell, show, directory.log_file)
        self._controller = self._kept(plan.controller, CONTROLLER_GRACE)
        self._coordinator = self._kept(plan.coordinator, COORDINATOR_GRACE + 1.0)
        self._nodes = {node.server.name: self._kept(node.server, NODE_GRACE) for node in plan.nodes}
        self._roles = {node.server.name: node.role for node in plan.nodes}
        self._next_number: dict[Role, int] = {}
        for node in plan.nodes:
            self._next_number[node.role] = max(self._next_number.get(node.role, 0), node.number + 1)
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._identities: dict[str, ProcessIdentity] = {}
        self._bad_answers: dict[str, int] = {}
        """Of Controller and Coordinator: how often in a row they did not say that they are well."""
        self._seen: SeenFleet | None = None
        self._settling = Settling()
        self._given_up: asyncio.Future[str]

    @property
    def processes(self) -> dict[str, ProcessIdentity]:
        """What was started so far, by name, engines included."""
        return {**self._identities, **self._servers.identities}

    async def start(self) -> None:
        """Return when the Coordinator says that the fleet can serve.

        Raises `EngineStartError` or `FleetError` as soon as one process fails. The caller stops the rest.
        """
        self._given_up = asyncio.get_running_loop().create_future()
        await all_or_none([kept.start() for kept in self._everybody] + [self._wait_active()])
        await self._wait_serving()

    async def watch(self) -> str:
        """Return when the fleet cannot answer any more and starting again did not help, with the reason."""
        for name, kept in ((kept.processes[0].plan.name, kept) for kept in self._everybody):
            self._keep(name, kept)
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._watch_health())]
        try:
            either: list[asyncio.Future[Any]] = [self._given_up, *tasks]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            return await self._given_up
        finally:
            everything = [*tasks, *self._keeping.values()]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def stop(self, hurry: asyncio.Event) -> None:
        """End every process: first the Coordinator, which lets go of its requests, then the engines, last the
        Controller, which NodeManagers report to.

        Once `hurry` is set nothing gets any more time. Returns when nothing of them is left.
        """
        hurried = asyncio.create_task(self._stop_at_once(hurry))
        try:
            await self._stop(self._coordinator, 0.0 if hurry.is_set() else COORDINATOR_GRACE + 1.0)
            # Nobody asks the engines any more, so there is nothing to drain: without a Controller they end at once.
            await self._stop(self._controller, 0.0 if hurry.is_set() else CONTROLLER_GRACE)
            grace = 0.0 if hurry.is_set() else NODE_GRACE
            await asyncio.gather(*(self._stop(node, grace) for node in self._nodes.values()))
            self._servers.all_stopped()
        finally:
            hurried.cancel()
            await asyncio.gather(hurried, return_exceptions=True)

    @property
    def _everybody(self) -> tuple[KeptServers, ...]:
        return (self._controller, self._coordinator, *self._nodes.values())

    def _kept(self, server: ServerPlan, grace: float) -> KeptServers:
        return KeptServers(
            [server], self._log_file, self._start_deadline, self._tell_process, grace, finished=self._was_released
        )

    def _was_released(self, process: EngineProcess) -> bool:
        """A NodeManager ends by itself, and well, only when nothing is wanted of it any more."""
        return process.plan.name in self._nodes and process.exit_status == 0

    def _keep(self, name: str, kept: KeptServers) -> None:
        task = self._keeping[name] = asyncio.create_task(kept.keep())
        task.add_done_callback(lambda done: self._kept_no_more(name, done))

    def _kept_no_more(self, name: str, task: asyncio.Task[None]) -> None:
        """A node was released, or keeping it failed, which is nobody's plan."""
        self._keeping.pop(name, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self._given_up.done():
            self._given_up.set_exception(error)
        self._nodes.pop(name, None)
        self._roles.pop(name, None)

    # -- what the Controller says

    async def _wait_active(self) -> None:
        """Wait until every instance is active. Raises `FleetError` when an engine fails."""
        async with contextlib.aclosing(self._view.changes()) as changes:
            async for seen in changes:
                self._note(seen)
                _refuse_failed(seen)
                active = [one for one in seen.instances if one.state is InstanceState.ACTIVE]
                if len(active) == len(self._plan.nodes):
                    return

    async def _follow(self) -> None:
        """Show what changes, start nodes that are missing, end those that hang. Never returns."""
        async with contextlib.aclosing(self._view.changes()) as changes:
            async for seen in changes:
                self._note(seen)
                self._give_up_in_vain()
                await self._start_missing(seen)
                await self._end_silent(seen)

    def _note(self, seen: SeenFleet) -> None:
        self._seen = seen
        self._settling.note(seen, time.monotonic())
        if self._servers.note(seen) and self.on_start is not None:
            self.on_start()

    async def _start_missing(self, seen: SeenFleet) -> None:
        for role in seen.roles:
            known = {node.name for node in seen.nodes}
            on_their_way = sum(
                self._roles[name] is role.role and name not in known and name in self._nodes for name in self._roles
            )
            for _ in range(role.missing_nodes - on_their_way):
                number = self._next_number.get(role.role, 0)
                self._next_number[role.role] = number + 1
                self._add(self._plan.further_node(role.role, number))

    def _add(self, node: NodePlan) -> None:
        name = node.server.name
        kept = self._nodes[name] = self._kept(node.server, NODE_GRACE)
        self._roles[name] = node.role
        self._show(Note(f"{name} starts: another {node.role.value} instance is wanted"))
        self._keeping[name] = asyncio.create_task(_start_and_keep(kept))
        self._keeping[name].add_done_callback(lambda done: self._kept_no_more(name, done))

    async def _end_silent(self, seen: SeenFleet) -> None:
        for node in seen.nodes:
            kept = self._nodes.get(node.name)
            if node.heard_seconds_ago > NODE_SILENCE and kept is not None and kept.serving:
                self._show(Note(f"{node.name} is silent and is ended", severity="warning"))
                await asyncio.gather(*(process.stop(0.0) for process in kept.processes))

    def _give_up_in_vain(self) -> None:
        reason = self._in_vain()
        if reason and not self._given_up.done():
            self._given_up.set_result(f"nothing is left that could answer, and starting again did not help; {reason}")

    def _in_vain(self) -> str:
        """Which of those that cannot be done without is down after several starts, or nothing."""
        for kept in (self._coordinator, self._controller):
            if _is_down(kept):
                return f"the last one lost is {kept.processes[0].plan.name} ({kept.processes[0].end_in_words()})"
        seen = self._seen
        answering = [one for one in seen.instances if one.role is not Role.ENCODE] if seen is not None else []
        down = [one for one in answering if self._settling.restarts(one.name) >= RESTARTS_IN_VAIN]
        if not answering or len(down) < len(answering):
            return ""
        return f"the last one lost is {down[-1].name} ({down[-1].fault.partition(chr(10))[0]})"

    # -- processes of our own

    async def _wait_serving(self) -> None:
        """Wait until the Coordinator has learnt that all are ready, and serves."""
        (coordinator,) = self._coordinator.processes
        url = f"{coordinator.plan.endpoint.url}/instances"
        deadline = time.monotonic() + SERVING_SECONDS
        answer: object = "no answer"
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT, trust_env=False) as client:
            while time.monotonic() < deadline and coordinator.running:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    answer = (await client.get(url)).json()
                    if isinstance(answer, dict) and self._serves(answer):
                        return
                await asyncio.sleep(READINESS_INTERVAL)
        if coordinator.running:
            raise FleetError(f"all engines are ready, but the Coordinator does not serve: {url} says {answer}")
        raise FleetError(f"the Coordinator ended ({coordinator.end_in_words()}){_quote(coordinator)}")

    def _serves(self, report: dict[str, Any]) -> bool:
        assert self._seen is not None
        known = report.get("version")
        return bool(report.get("ready")) and isinstance(known, int) and known >= self._seen.version

    def _tell_process(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        """What `KeptServers` says of a process of ours. Of NodeManagers only what goes wrong: their engines are what
        people wait for."""
        name = process.plan.name
        if state is EndpointState.STARTING:
            if process.process_id is not None:
                self._identities[name] = identify(process.process_id)
                if self.on_start is not None:
                    self.on_start()
            if name not in self._nodes:
                self._tell(name, ProcessState.STARTING)
        elif state is EndpointState.READY:
            if name not in self._nodes:
                self._bad_answers[name] = 0
                self._tell(name, ProcessState.READY, process.plan.endpoint.url)
        elif self._was_released(process):
            self._identities.pop(name, None)
            self._show(Note(f"{name} has ended: it is not needed any more"))
        else:
            self._tell_gone(process, detail)

    def _tell_gone(self, process: EngineProcess, words: str) -> None:
        name, first_line = process.plan.name, words.partition("\n")[0]
        self._bad_answers.pop(name, None)
        self._tell(name, ProcessState.EXITED, first_line)
        # What failed to start has been quoted already.
        said = words if "\n" in words or words.startswith(name) else f"{name} ended ({words}){_quote(process)}"
        self._show(Note(said, severity="warning"))
        self._give_up_in_vain()
        if not self._given_up.done():
            self._show(Note(f"{name} starts again"))

    async def _watch_health(self) -> None:
        """Ask Controller and Coordinator; whoever says it is ill, or nothing, many times in a row is ended, to start
        again. Never returns."""
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT, trust_env=False) as client:
            while True:
                await asyncio.sleep(HEALTH_INTERVAL)
                for kept in (self._controller, self._coordinator):
                    (process,) = kept.processes
                    if process.running and process.plan.name in self._bad_answers:
                        await self._note_health(process, await _health_problem(client, process))

    async def _note_health(self, process: EngineProcess, problem: str) -> None:
        name = process.plan.name
        now = self._bad_answers[name] = self._bad_answers.get(name, 0) + 1 if problem else 0
        if now == FAILURES_UNTIL_ENDED:
            self._show(Note(f"{name} stays unhealthy ({problem}) and is ended", severity="warning"))
            await process.stop(0.0)

    async def _stop(self, kept: KeptServers, grace: float) -> None:
        ran = [process.plan.name for process in kept.processes if process.running]
        await kept.stop(grace)
        for name in ran:
            self._tell(name, ProcessState.STOPPED)

    async def _stop_at_once(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        await asyncio.gather(*(kept.stop(0.0) for kept in self._everybody))

    def _tell(self, name: str, state: ProcessState, detail: str = "") -> None:
        self._show(ProcessChanged(name, state, time.monotonic() - self._began, detail))


async def _start_and_keep(kept: KeptServers) -> None:
    await kept.start()
    await kept.keep()


def _is_down(kept: KeptServers) -> bool:
    return not kept.serving and kept.restarts >= RESTARTS_IN_VAIN


def _refuse_failed(seen: SeenFleet) -> None:
    """Raises `FleetError` when an engine did not come up."""
    for node in seen.nodes:
        if node.problem:
            raise FleetError(f"{node.instance or node.name}: {node.problem}")
        for server in node.servers:
            if server.state is EndpointState.GONE and server.detail:
                raise FleetError(server.detail)


async def _health_problem(client: httpx.AsyncClient, process: EngineProcess) -> str:
    """What is wrong with its health, or nothing."""
    try:
        response = await client.get(process.health_url)
    except httpx.HTTPError as error:
        return f"{process.plan.health_path} does not answer ({type(error).__name__})"
    return "" if response.status_code == 200 else f"{process.plan.health_path} answers {response.status_code}"


def _quote(process: EngineProcess) -> str:
    lines = process.last_log_lines()
    if not lines:
        return ""
    return "\n".join([f"; the last lines of {process.log_path}:", *(f"    {line}" for line in lines)])
