"""The processes of one fleet: started together, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import httpx

from pymotor.engines import EngineProcess, InstancePlan, KeptServers, ServerPlan
from pymotor.engines.kept_servers import all_or_none
from pymotor.fleet import EndpointState, Role
from pymotor.local.events import Event, Note, ProcessChanged, ProcessState
from pymotor.local.plan import COORDINATOR_GRACE, FleetPlan
from pymotor.local.processes import ProcessIdentity, identify
from pymotor.local.register import FleetRegister
from pymotor.local.state import FleetDirectory, FleetError

READINESS_INTERVAL = 0.05
SERVING_SECONDS = 30.0
"""For the Coordinator to read the last snapshot and serve, once all engines are ready."""
HEALTH_INTERVAL = 2.0
HEALTH_TIMEOUT = 5.0
FAILURES_UNTIL_UNHEALTHY = 3
FAILURES_UNTIL_ENDED = 15
"""In a row: after half a minute of bad answers, or a minute and a half of silence."""
ENGINE_GRACE = 10.0
RESTARTS_IN_VAIN = 3
"""After so many a fleet that cannot answer is given up."""


class LocalFleet:
    """Engines and Coordinator as processes of this machine.

    `start()`, then `watch()`, and `stop()` on every way out. Engines start in parallel and the Coordinator at once
    beside them; it answers 503 until they are ready. From then on what ends, or is silent for too long, starts again.
    """

    on_start: Callable[[], None] | None = None
    """Called after each start of a process, when `processes` has it."""

    def __init__(
        self,
        plan: FleetPlan,
        directory: FleetDirectory,
        show: Callable[[Event], None],
        start_deadline: float,
        began: float,
    ) -> None:
        """`start_deadline`: seconds that each process may take to become ready. `began`: `time.monotonic()` from
        which seconds are counted in what is shown."""
        self._plan = plan
        self._show = show
        self._began = began
        self._register = FleetRegister(plan.instances, directory.snapshot_file)
        self._coordinator = KeptServers(
            [plan.coordinator], directory.log_file, start_deadline, self._tell_server, COORDINATOR_GRACE + 1.0
        )
        self._instances = {
            one.instance.name: KeptServers(
                one.servers,
                directory.log_file,
                start_deadline,
                self._tell_server,
                ENGINE_GRACE,
                functools.partial(_next_run, one),
            )
            for one in plan.instances
        }
        self._identities: dict[str, ProcessIdentity] = {}
        self._bad_answers: dict[str, int] = {}
        """Of each server that is ready: how often in a row it did not say that it is well."""
        self._given_up: asyncio.Future[str]

    @property
    def processes(self) -> dict[str, ProcessIdentity]:
        """What was started so far, by name."""
        return dict(self._identities)

    async def start(self) -> None:
        """Return when the Coordinator says that the fleet can serve.

        Raises `EngineStartError` as soon as one process fails, `FleetError` when the Coordinator does not serve.
        The caller stops the rest.
        """
        self._given_up = asyncio.get_running_loop().create_future()
        await all_or_none(kept.start() for kept in self._everybody)
        await self._wait_serving()

    async def watch(self) -> str:
        """Return when the fleet cannot answer any more and starting again did not help, with the reason."""
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(kept.keep()) for kept in self._everybody]
        tasks.append(asyncio.create_task(self._watch_health()))
        try:
            either: list[asyncio.Future[Any]] = [self._given_up, *tasks]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            return await self._given_up
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, hurry: asyncio.Event) -> None:
        """End every process: first the Coordinator, which lets go of its requests, then the engines.

        Once `hurry` is set nothing gets any more time. Returns when nothing of them is left.
        """
        hurried = asyncio.create_task(self._stop_at_once(hurry))
        try:
            await self._stop(self._coordinator, 0.0 if hurry.is_set() else COORDINATOR_GRACE + 1.0)
            grace = 0.0 if hurry.is_set() else ENGINE_GRACE
            await asyncio.gather(*(self._stop(instance, grace) for instance in self._instances.values()))
        finally:
            hurried.cancel()
            await asyncio.gather(hurried, return_exceptions=True)

    @property
    def _everybody(self) -> tuple[KeptServers, ...]:
        return (self._coordinator, *self._instances.values())

    def _identify(self, process: EngineProcess) -> None:
        if process.process_id is not None:
            self._identities[process.plan.name] = identify(process.process_id)
            if self.on_start is not None:
                self.on_start()

    async def _wait_serving(self) -> None:
        """Wait until the Coordinator has read the snapshot in which all are ready, and serves."""
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
        known = report.get("version")
        return bool(report.get("ready")) and isinstance(known, int) and known >= self._register.snapshot.version

    def _tell_server(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        """What `KeptServers` says of a server, to the Coordinator and to the user."""
        name, endpoint = process.plan.name, process.plan.endpoint
        self._bad_answers.pop(endpoint.id, None)
        if state is EndpointState.STARTING:
            self._identify(process)
            self._tell(name, ProcessState.STARTING)
            self._mark(process, state)
        elif state is EndpointState.READY:
            self._bad_answers[endpoint.id] = 0
            self._tell(name, ProcessState.READY, endpoint.url)
            self._mark(process, state)
        else:
            self._tell_gone(process, detail)

    def _tell_gone(self, process: EngineProcess, words: str) -> None:
        name, first_line = process.plan.name, words.partition("\n")[0]
        self._tell(name, ProcessState.EXITED, first_line)
        self._mark(process, EndpointState.GONE, f"its server {name}: {first_line}")
        # What failed to start has been quoted already.
        said = words if "\n" in words or words.startswith(name) else f"{name} ended ({words}){_quote(process)}"
        self._show(Note(said, severity="warning"))
        if self._in_vain() and not self._given_up.done():
            self._given_up.set_result(
                f"nothing is left that could answer, and starting again did not help; the last one lost is {name} "
                f"({first_line})"
            )
        elif not self._given_up.done():
            self._show(Note(f"{name} starts again"))

    def _in_vain(self) -> bool:
        """Whether the Coordinator, or everybody who could answer, is down after several starts."""
        if _is_down(self._coordinator):
            return True
        answering = [one.instance.name for one in self._plan.instances if one.instance.role is not Role.ENCODE]
        return not self._register.can_answer and all(_is_down(self._instances[name]) for name in answering)

    async def _watch_health(self) -> None:
        """Ask everybody who is ready; an engine that says it is ill, or nothing, several times in a row gets no
        requests, and what goes on so is ended, to start again."""
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT, trust_env=False) as client:
            while True:
                await asyncio.sleep(HEALTH_INTERVAL)
                servers = [process for kept in self._everybody for process in kept.processes]
                ready = [server for server in servers if server.plan.endpoint.id in self._bad_answers]
                answers = await asyncio.gather(*(_health_problem(client, server) for server in ready))
                for server, problem in zip(ready, answers, strict=True):
                    if server.running and server.plan.endpoint.id in self._bad_answers:
                        await self._note_health(server, problem)

    async def _note_health(self, engine: EngineProcess, problem: str) -> None:
        endpoint = engine.plan.endpoint.id
        before = self._bad_answers[endpoint]
        now = self._bad_answers[endpoint] = before + 1 if problem else 0
        was_unhealthy = before >= FAILURES_UNTIL_UNHEALTHY
        if now == FAILURES_UNTIL_UNHEALTHY:
            self._mark(engine, EndpointState.UNHEALTHY, f"its server {engine.plan.name}: {problem}")
            self._tell(engine.plan.name, ProcessState.UNHEALTHY, problem)
        elif now == FAILURES_UNTIL_ENDED:
            self._show(Note(f"{engine.plan.name} stays unhealthy ({problem}) and is ended", severity="warning"))
            await engine.stop(0.0)
        elif was_unhealthy and not problem:
            self._mark(engine, EndpointState.READY)
            self._tell(engine.plan.name, ProcessState.READY, "healthy again")

    def _mark(self, server: EngineProcess, state: EndpointState, fault: str = "") -> None:
        """As the register does; a file that cannot be written is told, and does not end a fleet that serves. The
        Coordinator is none of its instances."""
        if server.plan is self._plan.coordinator:
            return
        try:
            self._register.mark(server.plan.endpoint.id, state, fault)
        except OSError as error:
            self._show(Note(f"the Coordinator cannot be told: {error}", severity="warning"))

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


def _is_down(kept: KeptServers) -> bool:
    return not kept.serving and kept.restarts >= RESTARTS_IN_VAIN


def _next_run(plan: InstancePlan) -> tuple[ServerPlan, ...]:
    return plan.renewed().servers


async def _health_problem(client: httpx.AsyncClient, engine: EngineProcess) -> str:
    """What is wrong with the engine's health, or nothing."""
    try:
        response = await client.get(engine.health_url)
    except httpx.HTTPError as error:
        return f"{engine.plan.health_path} does not answer ({type(error).__name__})"
    return "" if response.status_code == 200 else f"{engine.plan.health_path} answers {response.status_code}"


def _quote(process: EngineProcess) -> str:
    lines = process.last_log_lines()
    if not lines:
        return ""
    return "\n".join([f"; the last lines of {process.log_path}:", *(f"    {line}" for line in lines)])
