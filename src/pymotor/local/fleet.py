"""The processes of one fleet: started together, watched, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx

from pymotor.engines import EngineProcess, KeptInstance
from pymotor.fleet import EndpointState, Instance, Role
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
ENGINE_GRACE = 10.0
RESTARTS_IN_VAIN = 3
"""After so many a fleet that cannot answer is given up."""


class LocalFleet:
    """Engines and Coordinator as processes of this machine.

    `start()`, then `watch()`, and `stop()` on every way out. Engines start in parallel and the Coordinator at once
    beside them; it answers 503 until they are ready. From then on an instance that loses a server starts again.
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
        self._coordinator = EngineProcess(plan.coordinator, directory.log_file(plan.coordinator.name), start_deadline)
        self._instances = [
            KeptInstance(instance, directory.log_file, start_deadline, self._tell_engine, ENGINE_GRACE)
            for instance in plan.instances
        ]
        self._identities: dict[str, ProcessIdentity] = {}
        self._bad_answers: dict[str, int] = {}
        """Of each endpoint that was ready: how often in a row it did not say that it is well."""
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
        bringing_up = (self._bring_up(self._coordinator), *(instance.start() for instance in self._instances))
        starts = [asyncio.create_task(start) for start in bringing_up]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        await self._wait_serving()

    async def watch(self) -> str:
        """Return when the fleet cannot answer any more, with the reason."""
        ended = asyncio.create_task(self._coordinator.wait_exit())
        keeping = [asyncio.create_task(instance.keep()) for instance in self._instances]
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._watch_health()), ended, *keeping]
        try:
            done, _ = await asyncio.wait({self._given_up, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if self._given_up in done:
                return self._given_up.result()
            if ended not in done:
                for task in done:
                    task.result()
            words = self._coordinator.end_in_words()
            self._tell(self._coordinator.plan.name, ProcessState.EXITED, words)
            return f"the Coordinator ended ({words}){_quote(self._coordinator)}"
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
            engines = [process for instance in self._instances for process in instance.processes]
            await asyncio.gather(*(self._stop(engine, grace) for engine in engines))
        finally:
            hurried.cancel()
            await asyncio.gather(hurried, return_exceptions=True)

    async def _bring_up(self, process: EngineProcess) -> None:
        name = process.plan.name
        await process.start()
        self._identify(process)
        self._tell(name, ProcessState.STARTING)
        await process.wait_ready()
        self._tell(name, ProcessState.READY, process.plan.endpoint.url)

    def _identify(self, process: EngineProcess) -> None:
        if process.process_id is not None:
            self._identities[process.plan.name] = identify(process.process_id)
            if self.on_start is not None:
                self.on_start()

    async def _wait_serving(self) -> None:
        """Wait until the Coordinator has read the snapshot in which all are ready, and serves."""
        url = f"{self._coordinator.plan.endpoint.url}/instances"
        deadline = time.monotonic() + SERVING_SECONDS
        answer: object = "no answer"
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT, trust_env=False) as client:
            while time.monotonic() < deadline and self._coordinator.running:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    answer = (await client.get(url)).json()
                    if isinstance(answer, dict) and self._serves(answer):
                        return
                await asyncio.sleep(READINESS_INTERVAL)
        if self._coordinator.running:
            raise FleetError(f"all engines are ready, but the Coordinator does not serve: {url} says {answer}")
        words = self._coordinator.end_in_words()
        raise FleetError(f"the Coordinator ended ({words}){_quote(self._coordinator)}")

    def _serves(self, report: dict[str, Any]) -> bool:
        known = report.get("version")
        return bool(report.get("ready")) and isinstance(known, int) and known >= self._register.snapshot.version

    def _tell_engine(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        """What `KeptInstance` says of a server, to the Coordinator and to the user."""
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
        instance = self._mark(process, EndpointState.GONE, f"its server {name}: {first_line}")
        # What failed to start has been quoted already.
        said = words if words.startswith(name) else f"{name} ended ({words}){_quote(process)}"
        self._show(Note(said, severity="warning"))
        self._show(Note(f"{instance.name} is {instance.state.value} until it has started again"))
        if self._register.can_answer:
            return
        answering = [kept for kept in self._instances if kept.role is not Role.ENCODE]
        if all(kept.restarts >= RESTARTS_IN_VAIN for kept in answering) and not self._given_up.done():
            self._given_up.set_result(
                f"no instance is left that could answer, and starting again did not help; the last one lost is "
                f"{instance.name} ({first_line})"
            )

    async def _watch_health(self) -> None:
        """Ask every engine that runs; what says it is ill, or nothing, several times in a row gets no requests."""
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT, trust_env=False) as client:
            while True:
                await asyncio.sleep(HEALTH_INTERVAL)
                servers = [process for instance in self._instances for process in instance.processes]
                engines = [engine for engine in servers if engine.plan.endpoint.id in self._bad_answers]
                answers = await asyncio.gather(*(_health_problem(client, engine) for engine in engines))
                for engine, problem in zip(engines, answers, strict=True):
                    if engine.running and engine.plan.endpoint.id in self._bad_answers:
                        self._note_health(engine, problem)

    def _note_health(self, engine: EngineProcess, problem: str) -> None:
        endpoint = engine.plan.endpoint.id
        before = self._bad_answers[endpoint]
        now = self._bad_answers[endpoint] = before + 1 if problem else 0
        was_unhealthy = before >= FAILURES_UNTIL_UNHEALTHY
        if now == FAILURES_UNTIL_UNHEALTHY:
            self._mark(engine, EndpointState.UNHEALTHY, f"its server {engine.plan.name}: {problem}")
            self._tell(engine.plan.name, ProcessState.UNHEALTHY, problem)
        elif was_unhealthy and not problem:
            self._mark(engine, EndpointState.READY)
            self._tell(engine.plan.name, ProcessState.READY, "healthy again")

    def _mark(self, engine: EngineProcess, state: EndpointState, fault: str = "") -> Instance:
        """As the register does; a file that cannot be written is told, and does not end a fleet that serves."""
        try:
            return self._register.mark(engine.plan.endpoint.id, state, fault)
        except OSError as error:
            self._show(Note(f"the Coordinator cannot be told: {error}", severity="warning"))
            return self._register.instance_of(engine.plan.endpoint.id)

    async def _stop(self, process: EngineProcess, grace: float) -> None:
        was_running = process.running
        await process.stop(grace)
        if was_running:
            self._tell(process.plan.name, ProcessState.STOPPED)

    async def _stop_at_once(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        await asyncio.gather(self._coordinator.stop(0.0), *(instance.stop(0.0) for instance in self._instances))

    def _tell(self, name: str, state: ProcessState, detail: str = "") -> None:
        self._show(ProcessChanged(name, state, time.monotonic() - self._began, detail))


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
