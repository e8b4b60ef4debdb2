"""Runs an engine core in an event loop: steps while there is work, keeps time, delivers outputs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import StepResult
from pymotor.engines.sim.embedding_pull import EmbeddingPull
from pymotor.engines.sim.embedding_push import EmbeddingPush
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.frames import TransferError
from pymotor.engines.sim.handoffs import Offer, WrongRoleError
from pymotor.engines.sim.metrics import EngineMetrics, Timing
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import EngineDeadError, Handover, Output, Request, Status
from pymotor.engines.sim.transfers import Transfers

log = logging.getLogger("pymotor.sim")

_STOP_SECONDS = 2.0
"""How long `stop` waits for what it told to end."""

Sink = Callable[[Output], None]


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
        self._metrics = metrics
        self._faults = faults
        self._listeners: dict[Request, _Listener] = {}
        self._turn: asyncio.Handle | None = None
        self._woken = False
        """Whether something changed since the step under way was computed."""
        self._expiry: asyncio.TimerHandle | None = None
        self._moving: dict[Request, asyncio.Task[None]] = {}
        self.exchange: EmbeddingPull | EmbeddingPush | None = None
        """What moves embeddings between engines, where a directory does not."""
        self.publish: Callable[[], None] = lambda: None
        """Tells others what happened to the prefix cache; called after each step, as in vLLM."""
        self.transfers = Transfers(
            core,
            layout=layout,
            speed=speed,
            faults=faults,
            received=self._received,
            finished=self._send,
            changed=self._wake,
            failed=self.die,
        )

    @property
    def moving(self) -> int:
        """Requests whose embeddings are on their way."""
        return len(self._moving)

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request; `sink` gets its outputs, the last of which has a finish reason.

        Raises `EngineDeadError` when the core is dead, `HandoffError` for parameters that it cannot accept.
        """
        if self.dead:
            raise EngineDeadError
        gathers = self.exchange is not None and bool(request.media) and self.exchange.gathers(request)
        if not gathers:
            self._add(request)
        self._listeners[request] = _Listener(sink, Timing(asyncio.get_running_loop().time()))
        if gathers:
            self._move(request, self._gather(request))
        self._wake()

    def _add(self, request: Request) -> None:
        try:
            self.core.add(request)
        except WrongRoleError as error:
            self.die(str(error))
            raise EngineDeadError(str(error)) from error

    def cancel(self, request: Request) -> None:
        """Forget a request and free what it holds, here and where its KV waits; harmless when it is finished."""
        if self._listeners.pop(request, None) is None or self.dead:
            return
        self._metrics.aborted()
        if self.exchange is not None:
            self.exchange.release(request)
        moving = self._moving.pop(request, None)
        if moving is not None:
            moving.cancel()
            if request.status is Status.WAITING:
                return  # the core does not know it yet
        self.core.abort(request)
        self.transfers.cancel(request)
        self._wake()

    async def stop(self) -> None:
        """Stop stepping and end all transfers."""
        self.dead = True
        for handle in (self._turn, self._expiry):
            if handle is not None:
                handle.cancel()
        await self.transfers.stop()
        moving = list(self._moving.values())
        for task in moving:
            task.cancel()
        if moving:
            await asyncio.wait(moving, timeout=_STOP_SECONDS)

    def die(self, reason: str) -> None:
        """The core is lost: all requests fail, and every later one."""
        if self.dead:
            return
        log.error("EngineCore died: %s", reason)
        self.dead = True
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self.transfers.abandon()
        for task in self._moving.values():
            task.cancel()
        self._moving.clear()
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
        for awaited in result.awaited:
            self.transfers.begin(awaited)
        seconds = result.work.seconds(self.core.profile) * self._speed
        if seconds > 0:
            self._turn = loop.call_later(seconds, self._deliver, result)
        else:
            self._deliver(result)

    def _deliver(self, result: StepResult) -> None:
        self._turn = None
        self.publish()
        for output in result.outputs:
            if output.embeddings and self.exchange is not None and self.exchange.delivers(output.request):
                self._move(output.request, self._deliver_embeddings(self.exchange, output))
            else:
                self._send(output)
        for handover in result.handovers:
            self._hand_over(handover)
        if result.progress or self._woken:
            self._wake()
        self._watch_leases()

    def _send(self, output: Output) -> None:
        listener = self._listeners.get(output.request)
        if listener is None:
            if output.kv_transfer_params is not None:
                self.core.leases.end(output.request.id)
            return
        self._metrics.observe(listener.timing, output, asyncio.get_running_loop().time())
        if output.finish_reason is not None:
            del self._listeners[output.request]
            if self.exchange is not None:
                self.exchange.release(output.request)
        if output.kv_transfer_params is not None and self._faults.take(Stage.KV_LEASED):
            self.core.leases.lose(output.request.id)
        listener.sink(output)

    def _hand_over(self, handover: Handover) -> None:
        request = handover.output.request
        if request not in self._listeners:
            self.core.leases.end(request.id)
            return
        if isinstance(handover.target, Offer) and self._faults.take(Stage.KV_LEASED):
            self.core.leases.lose(request.id)
        self.transfers.hand_over(handover)

    def _move(self, request: Request, moving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(moving)
        self._moving[request] = task
        task.add_done_callback(lambda ended: self._moved(request, ended))

    def _moved(self, request: Request, task: asyncio.Task[None]) -> None:
        if self._moving.get(request) is task:
            del self._moving[request]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("moving embeddings failed", exc_info=error)
            self._send(Output(request, finish_reason="error"))

    async def _gather(self, request: Request) -> None:
        """Queue a request when its embeddings are here."""
        assert self.exchange is not None
        good = await self.exchange.gather(request)
        del self._moving[request]
        if good:
            self._add(request)
            self._wake()
        else:
            self._send(Output(request, finish_reason="error"))

    async def _deliver_embeddings(self, exchange: EmbeddingPull | EmbeddingPush, output: Output) -> None:
        try:
            await exchange.deliver(output)
        except TransferError as error:
            log.error("embeddings of %s were not accepted: %s", output.request.id, error)
            output = replace(output, finish_reason="error")
        self._moving.pop(output.request, None)
        self._send(output)

    def _received(self, request: Request, states: Words | None) -> None:
        output = self.core.receive_kv(request, states)
        if output is not None:
            self._send(output)
        self._wake()

    def _watch_leases(self) -> None:
        expires = self.core.leases.next_expiry
        if expires is None or self._expiry is not None:
            return
        self._expiry = asyncio.get_running_loop().call_at(expires, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self.core.leases.expire(asyncio.get_running_loop().time())
        self.transfers.forget_expired()
        self._watch_leases()
        self._wake()
