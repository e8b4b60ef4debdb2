"""Runs an engine core in an event loop: steps while there is work, fetches KV, keeps time, delivers outputs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pymotor.engines.sim import side_channel
from pymotor.engines.sim.core import EngineCore, StepResult
from pymotor.engines.sim.requests import EngineDeadError, Output, Pull, Request

log = logging.getLogger("pymotor.sim")

Sink = Callable[[Output], None]


class EngineDriver:
    """One core, its clock and its transfers. All methods belong to the event loop's thread."""

    def __init__(self, core: EngineCore, *, speed: float, layout: str) -> None:
        self.core = core
        self.dead = False
        self._speed = speed
        self._layout = layout
        self._sinks: dict[Request, Sink] = {}
        self._turn: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._fetches: dict[Request, asyncio.Task[None]] = {}

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request; `sink` gets its outputs, the last of which has a finish reason.

        Raises `EngineDeadError` when the core is dead.
        """
        if self.dead:
            raise EngineDeadError
        self._sinks[request] = sink
        self.core.add(request)
        self._wake()

    def cancel(self, request: Request) -> None:
        """Forget a request and free what it holds; harmless when it is finished."""
        if self._sinks.pop(request, None) is None or self.dead:
            return
        fetch = self._fetches.pop(request, None)
        if fetch is not None:
            fetch.cancel()
        self.core.abort(request)
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
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    def _wake(self) -> None:
        if self._turn is None and self.core.has_work and not self.dead:
            self._turn = asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            result = self.core.step(loop.time())
        except EngineDeadError as error:
            self.die(str(error))
            return
        for pull in result.pulls:
            self._fetches[pull.request] = loop.create_task(self._fetch(pull))
        seconds = result.work.seconds(self.core.profile) * self._speed
        self._turn = loop.call_later(seconds, self._deliver, result) if seconds > 0 else None
        if self._turn is None:
            self._deliver(result)

    def _deliver(self, result: StepResult) -> None:
        self._turn = None
        for output in result.outputs:
            self._send(output)
        if result.progress:
            self._wake()
        self._watch_leases()

    def _send(self, output: Output) -> None:
        sink = self._sinks.get(output.request)
        if sink is None:
            return
        if output.finish_reason is not None:
            del self._sinks[output.request]
        sink(output)

    async def _fetch(self, pull: Pull) -> None:
        profile = self.core.profile
        started = asyncio.get_running_loop().time()
        try:
            states = await side_channel.fetch(pull, self._layout, profile.kv_handshake_timeout_seconds)
            await asyncio.sleep(profile.kv_transfer_seconds(len(states)) * self._speed)
        except side_channel.TransferError as error:
            log.warning("KV of %s could not be fetched: %s", pull.remote_request_id, error)
            states = None
            spent = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.0, profile.kv_handshake_timeout_seconds * self._speed - spent))
        self._fetches.pop(pull.request, None)
        output = self.core.receive_kv(pull.request, states)
        if output is not None:
            self._send(output)
        self._wake()

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

    def die(self, reason: str) -> None:
        """The core is lost: all requests fail, and every later one."""
        log.error("EngineCore died: %s", reason)
        self.dead = True
        self._turn = None
        for fetch in self._fetches.values():
            fetch.cancel()
        sinks, self._sinks = self._sinks, {}
        for request, sink in sinks.items():
            sink(Output(request, finish_reason="dead"))
