"""Keeps the worker processes: one for each column of the ledger, another when one dies."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import msgspec

from pymotor.coordinator.control import (
    Age,
    CallbackPorts,
    ExplainReply,
    ExplainRequest,
    FinishedQuestion,
    FleetUpdate,
    KeysUpdate,
    OperatorReply,
    OperatorRequest,
    Ping,
    SettingsUpdate,
    WorkerStart,
    frame,
)
from pymotor.coordinator.keys.api_key import ApiKey
from pymotor.coordinator.operators import OperatorDesk
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.worker_explanations import WorkerExplanations
from pymotor.coordinator.worker_metrics import WorkerMetrics
from pymotor.coordinator.worker_process import WorkerProcess
from pymotor.telemetry.metrics import MetricsDump

logger = logging.getLogger(__name__)

LISTENING_DEADLINE = 120.0
"""Seconds a worker has from its start until it listens."""

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
STEADY_SECONDS = 30.0
"""A worker that lived so long did not fail at its start: its successor comes after the shortest pause again."""

LAST_SECONDS = 5.0
"""What a worker has beyond its grace, and then once more when it is told to end at once, before SIGKILL comes."""


class WorkerStartError(Exception):
    """A worker ended before the Coordinator was ready."""


class WorkerPool:
    """Starts, restarts, informs and ends the workers."""

    def __init__(
        self,
        module: str,
        first: WorkerStart,
        ledger: Ledger,
        ledger_descriptor: int,
        answer_timeout: float,
        desk: OperatorDesk,
    ) -> None:
        """`first` is what every worker is told at its start, but for its column; `ledger` reads the memory
        behind `ledger_descriptor`: both stay the caller's, who keeps them until `stop` has returned.
        `answer_timeout`: seconds after which a worker that does not answer is taken for hung and replaced. `desk`
        takes what clients ask of the supervisor."""
        self._module = module
        self._first = first
        self._ledger = ledger
        self._ledger_descriptor = ledger_descriptor
        self._answer_timeout = answer_timeout
        self._desk = desk
        self._workers: dict[int, WorkerProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._fleet: bytes | None = None
        self._updates: list[FleetUpdate] = []
        """Published and not yet left behind by every worker, the oldest first."""
        self._taken = asyncio.Event()
        self._settings: SettingsUpdate | None = None
        self._settings_taken = asyncio.Event()
        self._callback_ports: dict[int, int] = {}
        self._metrics = WorkerMetrics()
        self._explained = WorkerExplanations()
        self._restarts = 0

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._first.columns

    @property
    def listening(self) -> int:
        """How many workers accept requests."""
        return sum(worker.listens for worker in self._workers.values())

    @property
    def restarts(self) -> int:
        """How many workers were started in place of one that died."""
        return self._restarts

    @property
    def was_ready(self) -> bool:
        """Whether there was a moment when all workers accepted requests."""
        return self._ready.is_set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Start the workers and keep them; returns only after `stop`.

        Raises `WorkerStartError` when a worker ends before all have listened for the first time: the reason is
        then seldom one that passes. Call `stop` on every way out, also after an error.
        """
        self._keepers = [asyncio.create_task(self._keep(column)) for column in range(self.wanted)]
        await asyncio.gather(*self._keepers)

    async def ready(self) -> None:
        """Return when all workers have said that they listen."""
        await self._ready.wait()

    def publish(self, update: FleetUpdate) -> None:
        """Tell all workers, and those that come later, of the fleet."""
        self._fleet = frame(update)
        self._updates.append(update)
        for worker in self._workers.values():
            worker.tell_fleet(self._fleet, update.age)
        self._note_taken()

    async def set_settings(self, settings: Settings, log_level: str) -> None:
        """Give all workers, and those that come later, these settings and this level of the log; return when each has
        them."""
        number = self._settings.number + 1 if self._settings is not None else 1
        self._settings = SettingsUpdate(number=number, settings=settings, log_level=log_level)
        self._first = msgspec.structs.replace(self._first, settings=settings, log_level=log_level)
        for worker in self._workers.values():
            worker.tell(frame(self._settings))
        while any(worker.settings_number < number for worker in self._workers.values()):
            self._settings_taken.clear()
            await self._settings_taken.wait()

    def publish_keys(self, keys: tuple[ApiKey, ...]) -> None:
        """Tell all workers, and those that come later, which keys are good."""
        self._first = msgspec.structs.replace(self._first, keys=keys)
        words = frame(KeysUpdate(keys=keys))
        for worker in self._workers.values():
            worker.tell(words)

    @property
    def told(self) -> FleetUpdate | None:
        """The newest update such that no worker routes by an older one; None before the first."""
        return self._updates[0] if self._updates else None

    async def has_told(self, age: Age) -> None:
        """Return when no worker routes by a snapshot older than `age`."""
        while self.told is None or self.told.age < age:
            self._taken.clear()
            await self._taken.wait()

    def _note_taken(self) -> None:
        """Leave behind the updates that all workers have."""
        if not self._updates:
            return
        newest = self._updates[-1].age
        oldest = min((worker.fleet or newest for worker in self._workers.values()), default=newest)
        self._updates = [update for update in self._updates if update.age >= oldest]
        self._taken.set()

    def metrics(self, names: frozenset[str] | None = None) -> MetricsDump:
        """The figures of all workers, dead ones included: all, or those of these names only."""
        return self._metrics.total(names)

    async def explain(self, request: ExplainRequest | FinishedQuestion, deadline: float) -> dict[int, ExplainReply]:
        """What each worker says to it, by column; those that do not answer within `deadline` seconds say
        nothing."""
        asked = {column: worker for column, worker in self._workers.items() if worker.listens}
        with self._explained.inquiry(asked) as inquiry:
            words = frame(msgspec.structs.replace(request, number=inquiry.number))
            for worker in asked.values():
                worker.tell(words)
            await inquiry.done(deadline)
            return inquiry.replies

    async def stop(self, grace: float, hurry: asyncio.Event) -> None:
        """End all workers: they finish what they have within `grace` seconds, or less when `hurry` is set;
        then they are told to end at once, and then comes SIGKILL. Returns when no process is left."""
        self._stopping.set()
        all_ended: asyncio.Future[Any] = asyncio.gather(*self._keepers, return_exceptions=True)
        hurried: asyncio.Future[Any] = asyncio.ensure_future(hurry.wait())
        try:
            if grace > 0 and not hurry.is_set():
                for worker in list(self._workers.values()):
                    worker.drain(grace)
                await asyncio.wait(
                    [all_ended, hurried],
                    timeout=grace + LAST_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            for worker in list(self._workers.values()):
                if worker.listens:
                    worker.drain(0.0)
                else:
                    worker.kill()
            await asyncio.wait([all_ended], timeout=LAST_SECONDS)
            for column, worker in list(self._workers.items()):
                logger.warning("worker %d (pid %d) does not end and is killed", column, worker.pid)
                worker.kill()
            await all_ended
        finally:
            hurried.cancel()

    async def _keep(self, column: int) -> None:
        """One worker after another in this column until `stop`."""
        clock = asyncio.get_running_loop().time
        pause = SHORTEST_PAUSE
        while not self._stopping.is_set():
            began = clock()
            end = await self._live(column)
            if self._stopping.is_set():
                return
            if not self._ready.is_set():
                raise WorkerStartError(f"worker {column} ended at its start ({end}); its own words are above")
            pause = SHORTEST_PAUSE if clock() - began >= STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
            logger.error("worker %d ended by itself (%s); another starts in %.1f s", column, end, pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except asyncio.TimeoutError:
                self._restarts += 1

    async def _live(self, column: int) -> str:
        """The life of one worker; returns how it ended. Its ledger column is zero again after it."""
        with self._metrics.counting(column) as figures_descriptor:
            return await self._run_worker(column, figures_descriptor)

    async def _run_worker(self, column: int, figures_descriptor: int) -> str:
        try:
            worker = await WorkerProcess.start(
                self._module,
                self._ledger_descriptor,
                figures_descriptor,
                frame(msgspec.structs.replace(self._first, column=column)),
                on_listening=partial(self._listened, column),
                on_callback_port=partial(self._takes_callbacks, column),
                on_operator=partial(self._ask_operator, column),
                on_fleet_taken=self._note_taken,
                on_settings_taken=self._settings_taken.set,
                on_explained=partial(self._explained.report, column),
            )
        except OSError as error:
            return f"no process could be made: {error}"
        self._workers[column] = worker
        if self._settings is not None:
            # They may have changed while the process was made.
            worker.tell(frame(self._settings))
        if self._callback_ports:
            worker.tell(frame(CallbackPorts(ports=self._callback_ports)))
        if self._fleet is not None:
            worker.tell_fleet(self._fleet, self._updates[-1].age)
        if self._stopping.is_set():
            worker.kill()
        guard = asyncio.create_task(self._guard(column, worker))
        try:
            return await worker.ended()
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            guard.cancel()
            del self._workers[column]
            self._settings_taken.set()
            self._callback_ports.pop(column, None)
            self._explained.retire(column)
            self._ledger.clear_column(column)
            self._note_taken()

    def _listened(self, column: int) -> None:
        worker = self._workers.get(column)
        logger.info("worker %d (pid %s) accepts requests", column, worker.pid if worker else "unknown")
        if self.listening == self.wanted:
            self._ready.set()

    def _takes_callbacks(self, column: int, port: int) -> None:
        self._callback_ports[column] = port
        words = frame(CallbackPorts(ports=self._callback_ports))
        for worker in self._workers.values():
            worker.tell(words)

    def _ask_operator(self, column: int, request: OperatorRequest) -> None:
        asking = self._workers.get(column)

        def reply(found: OperatorReply) -> None:
            if asking is not None and self._workers.get(column) is asking:
                asking.tell(frame(found))

        self._desk.take(request, reply)

    async def _guard(self, column: int, worker: WorkerProcess) -> None:
        """Kill the worker when it does not come to listen, or later does not answer: a share of all connections
        goes to it as long as it lives."""
        try:
            await asyncio.wait_for(worker.listening(), LISTENING_DEADLINE)
        except asyncio.TimeoutError:
            logger.error("worker %d does not listen after %g s and is killed", column, LISTENING_DEADLINE)
            worker.kill()
            return
        asking = frame(Ping())
        while True:
            heard = worker.messages
            worker.tell(asking)
            await asyncio.sleep(self._answer_timeout)
            if worker.messages == heard:
                logger.error("worker %d has not answered for %g s and is killed", column, self._answer_timeout)
                worker.kill()
                return
