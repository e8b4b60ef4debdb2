"""Runs an engine core in an event loop: steps while there is work, fetches KV, keeps time, delivers outputs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from pymotor.engines.sim import side_channel
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import StepResult
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.handoff_faults import HandoffFaults
from pymotor.engines.sim.metrics import EngineMetrics, Timing
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import EngineDeadError, Output, Pull, Request, remote_source

log = logging.getLogger("pymotor.sim")

Sink = Callable[[Output], None]

_STOP_SECONDS = 2.0
"""How long `stop` waits for transfers that were told to end."""


@dataclass(frozen=True)
class _Listener:
    """Who wants a request's outputs."""

    sink: Sink
    timing: Timing


class EngineDriver:
    """One core, its clock and its transfers. All methods belong to the event loop's thread."""

    def __init__(self, core: EngineCore, *, speed: float, layout: str, metrics: EngineMetrics, faults: Faults) -> None:
        self.core = core
        self.dead = False
        self._speed = speed
        self._layout = layout
        self._metrics = metrics
        self._faults = faults
        self._handoff_faults = HandoffFaults(faults)
        self._listeners: dict[Request, _Listener] = {}
        self._turn: asyncio.Handle | None = None
        self._woken = False
        """Whether something changed since the step under way was computed."""
        self._expiry: asyncio.TimerHandle | None = None
        self._fetches: dict[Request, asyncio.Task[None]] = {}
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def transfers(self) -> int:
        """Transfers and notices under way."""
        return len(self._fetches) + len(self._notices)

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request; `sink` gets its outputs, the last of which has a finish reason.

        Raises `EngineDeadError` when the core is dead.
        """
        if self.dead:
            raise EngineDeadError
        self._listeners[request] = _Listener(sink, Timing(asyncio.get_running_loop().time()))
        self.core.add(request)
        self._wake()

    def cancel(self, request: Request) -> None:
        """Forget a request and free what it holds, here and where its KV waits; harmless when it is finished."""
        if self._listeners.pop(request, None) is None or self.dead:
            return
        self._metrics.aborted()
        fetch = self._fetches.pop(request, None)
        if fetch is not None:
            fetch.cancel()
        self.core.abort(request)
        source = remote_source(request)
        if source is not None and not request.pulled:
            notice = asyncio.get_running_loop().create_task(side_channel.give_up(source))
            self._notices.add(notice)
            notice.add_done_callback(self._notices.discard)
        self._wake()

    def end_lease(self, request_id: str) -> None:
        """Another engine fetched this request's KV."""
        self.core.end_lease(request_id)
        self._wake()

    async def stop(self) -> None:
        """Stop stepping and end all transfers."""
        self.dead = True
        for handle in (self._turn, self._expiry):
            if handle is not None:
                handle.cancel()
        tasks = [*self._fetches.values(), *self._notices]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    def die(self, reason: str) -> None:
        """The core is lost: all requests fail, and every later one."""
        if self.dead:
            return
        log.error("EngineCore died: %s", reason)
        self.dead = True
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        for fetch in self._fetches.values():
            fetch.cancel()
        self._fetches.clear()
        for request in list(self._listeners):
            self._send(Output(request, finish_reason="dead"))

    def _wake(self) -> None:
        """See to it that a step is computed after what just changed."""
        self._woken = True
        if self._turn is None and self.core.has_work and not self.dead:
            self._turn = asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        loop = asyncio.get_running_loop()
        self._woken = False
        try:
            if self._faults.take(Stage.STEP):
                self.core.preempt_youngest()
            result = self.core.step(loop.time())
        except (EngineDeadError, OSError, ValueError) as error:
            self.die(str(error))  # as in vLLM: what a step raises, a damaged file of a store included, ends the core
            return
        except Exception as error:
            log.exception("a step failed")
            self.die(f"{type(error).__name__}: {error}")  # nobody is left waiting for a core that steps no more
            return
        for pull in result.pulls:
            fetch = loop.create_task(self._fetch(pull))
            fetch.add_done_callback(self._fetch_ended)
            self._fetches[pull.request] = fetch
        seconds = result.work.seconds(self.core.profile) * self._speed
        if seconds > 0:
            self._turn = loop.call_later(seconds, self._deliver, result)
        else:
            self._deliver(result)

    def _deliver(self, result: StepResult) -> None:
        self._turn = None
        for output in result.outputs:
            self._send(output)
        if result.progress or self._woken:
            self._wake()
        self._watch_leases()

    def _send(self, output: Output) -> None:
        listener = self._listeners.get(output.request)
        if listener is None:
            if output.kv_transfer_params is not None:
                self.core.end_lease(output.request.id)
            return
        self._metrics.observe(listener.timing, output, asyncio.get_running_loop().time())
        if output.finish_reason is not None:
            del self._listeners[output.request]
        if output.kv_transfer_params is not None and self._faults.take(Stage.KV_LEASED):
            self.core.lose_lease(output.request.id)
        listener.sink(output)

    async def _fetch(self, pull: Pull) -> None:
        profile = self.core.profile
        started = asyncio.get_running_loop().time()
        states: Words | None
        try:
            fetched = await side_channel.fetch(pull, self._layout, profile.kv_handshake_timeout_seconds)
            await asyncio.sleep(profile.kv_transfer_seconds(len(fetched)) * self._speed)
            states = self._handoff_faults.spoil(fetched, self.core.options.block_size)
        except side_channel.TransferError as error:
            log.warning("KV of %s could not be fetched: %s", pull.source.request_id, error)
            states = None
            spent = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.0, profile.kv_handshake_timeout_seconds * self._speed - spent))
        self._fetches.pop(pull.request, None)
        output = self.core.receive_kv(pull.request, states)
        if output is not None:
            self._send(output)
        self._wake()

    def _fetch_ended(self, fetch: asyncio.Task[None]) -> None:
        """A transfer that ended in a way nobody foresaw ends the core, so that its request is not left waiting."""
        error = None if fetch.cancelled() else fetch.exception()
        if error is not None:
            log.error("a transfer failed", exc_info=error)
            self.die(f"{type(error).__name__}: {error}")

    def _watch_leases(self) -> None:
        expires = self.core.next_expiry
        if expires is None or self._expiry is not None:
            return
        self._expiry = asyncio.get_running_loop().call_at(expires, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self.core.expire_leases(asyncio.get_running_loop().time())
        self._watch_leases()
        self._wake()
