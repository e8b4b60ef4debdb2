"""Runs an engine core in an event loop: steps while there is work, keeps time, delivers outputs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import StepResult
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.handoffs import Offer
from pymotor.engines.sim.metrics import EngineMetrics, Timing
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import EngineDeadError, Handover, Output, Request
from pymotor.engines.sim.transfers import Transfers

log = logging.getLogger("pymotor.sim")

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

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request; `sink` gets its outputs, the last of which has a finish reason.

        Raises `EngineDeadError` when the core is dead, `HandoffError` for parameters that it cannot accept.
        """
        if self.dead:
            raise EngineDeadError
        self.core.add(request)
        self._listeners[request] = _Listener(sink, Timing(asyncio.get_running_loop().time()))
        self._wake()

    def cancel(self, request: Request) -> None:
        """Forget a request and free what it holds, here and where its KV waits; harmless when it is finished."""
        if self._listeners.pop(request, None) is None or self.dead:
            return
        self._metrics.aborted()
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
        for output in result.outputs:
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
