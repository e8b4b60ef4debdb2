"""KV on its way between this engine and others: one task for each transfer, in every dialect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from pymotor.engines.sim import side_channel
from pymotor.engines.sim.bootstrap_query import find_worker
from pymotor.engines.sim.callback import Callbacks, callback_body
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.frames import TransferError
from pymotor.engines.sim.handoff_faults import HandoffFaults, forever
from pymotor.engines.sim.handoffs import KVSource, Meeting, Offer, PushTarget
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.rendezvous import Rendezvous, Standing
from pymotor.engines.sim.requests import Awaited, Handover, Output, Request

log = logging.getLogger("pymotor.sim")

_STOP_SECONDS = 2.0
"""How long `stop` waits for transfers that were told to end."""


class Transfers:
    """Moves KV for one core. `received` and `finished` hear of what came of it; `failed` of what nobody foresaw."""

    def __init__(
        self,
        core: EngineCore,
        *,
        layout: str,
        speed: float,
        faults: Faults,
        received: Callable[[Request, Words | None], None],
        finished: Callable[[Output], None],
        changed: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._core = core
        self._layout = layout
        self._speed = speed
        self._faults = faults
        self._spoiler = HandoffFaults(faults)
        self._received = received
        self._finished = finished
        self._changed = changed
        self._failed = failed
        self._callbacks = Callbacks(faults)
        self._tasks: dict[Request, asyncio.Task[None]] = {}
        self._notices: set[asyncio.Task[None]] = set()
        self.rendezvous = Rendezvous()

    @property
    def count(self) -> int:
        """Transfers, callbacks and notices under way."""
        return len(self._tasks) + len(self._notices)

    def begin(self, awaited: Awaited) -> None:
        """See to it that a request gets the KV it waits for."""
        request, source = awaited.request, awaited.source
        if isinstance(source, KVSource):
            self._run(request, self._pull(request, source))
        elif isinstance(source, Meeting):
            self._run(request, self._join(request, source))
        elif source.virtual:
            self._run(request, self._go_on(request))
        else:
            self._notify(self._callbacks.send(source.url, callback_body(request, self._core.options)))

    def hand_over(self, handover: Handover) -> None:
        """See to it that another engine gets a request's KV, and deliver the request's last output when it is due."""
        output, target = handover.output, handover.target
        if isinstance(target, PushTarget):
            self._run(output.request, self._push(output, target))
        elif isinstance(target, Offer) and output.request.id in self._core.leases:
            standing = self.rendezvous.offer(target.key, output.request.id)
            if target.answers_first:
                self._finished(output)
            else:
                self._run(output.request, self._hold(output, target, standing))
        elif isinstance(target, Offer):
            self._finished(output)  # what was lost is offered to nobody
        else:
            log.error("KV of %s cannot be handed over: %s", output.request.id, target.reason)
            self._finished(replace(output, token=None, finish_reason="error"))

    def cancel(self, request: Request) -> None:
        """Nobody wants this request any more: end its transfer, and tell who keeps KV for it."""
        task = self._tasks.pop(request, None)
        if task is not None:
            task.cancel()
        if isinstance(request.source, KVSource) and not request.pulled:
            self._notify(side_channel.give_up(request.source))

    def forget_expired(self) -> None:
        """Withdraw offers whose lease is over."""
        self.rendezvous.withdraw_unless(lambda request_id: request_id in self._core.leases)

    def abandon(self) -> None:
        """End all transfers at once; nobody hears of them."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def stop(self) -> None:
        """End everything and wait until it has ended."""
        tasks = [*self._tasks.values(), *self._notices]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        await self._callbacks.close()

    # What other engines ask, see `KVPeer`.

    def read_blocks(self, blocks: Sequence[int]) -> Words:
        """The words of these blocks, whoever owns them now."""
        return self._core.read_blocks([int(block) for block in blocks])

    def end_lease(self, request_id: str) -> None:
        """Another engine fetched this request's KV."""
        self._core.leases.end(request_id)
        self._changed()

    async def receive_push(self, request_id: str, blocks: Sequence[int], states: Words) -> None:
        """Blocks are written whoever owns them, as by RDMA; an id nobody waits under is passed over."""
        size = self._core.options.block_size
        if len(states) != len(blocks) * size:
            raise ValueError(f"{len(states)} words are not {len(blocks)} blocks of {size}")
        request = self._core.waits_as(request_id)
        try:
            spoiled = await self._spoiler.spoil(states, size)
        except TransferError:
            if request is not None:
                self._received(request, None)
            raise
        if blocks:
            self._core.write_blocks([int(block) for block in blocks], spoiled)
        if request is not None:
            self._core.resume(request)
            self._changed()

    async def join(self, key: str) -> Words:
        """The KV offered under this key; the offer is over with it."""
        if "kv_push_lost" in self._faults.take(Stage.KV_PUSHED):
            await forever()
        try:
            standing = await self.rendezvous.come(key, self._core.options.kv_lease_seconds)
        except asyncio.TimeoutError as error:
            raise TransferError(f"nothing was offered as {key}") from error
        states = self._core.read_blocks(self._core.leases[standing.request_id].blocks)
        self._core.leases.end(standing.request_id)
        if not standing.taken.done():
            standing.taken.set_result(None)
        self._changed()
        return states

    # Transfers.

    def _run(self, request: Request, transfer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(transfer)
        self._tasks[request] = task
        task.add_done_callback(lambda ended: self._ended(request, ended))

    def _ended(self, request: Request, task: asyncio.Task[None]) -> None:
        """A transfer that ended in a way nobody foresaw ends the core, so that its request is not left waiting."""
        if self._tasks.get(request) is task:
            del self._tasks[request]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a transfer failed", exc_info=error)
            self._failed(f"{type(error).__name__}: {error}")

    def _notify(self, notice: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(notice)
        self._notices.add(task)
        task.add_done_callback(self._noticed)

    def _noticed(self, task: asyncio.Task[None]) -> None:
        self._notices.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a notice failed", exc_info=error)

    async def _go_on(self, request: Request) -> None:
        self._core.resume(request)
        self._changed()

    async def _pull(self, request: Request, source: KVSource) -> None:
        timeout = self._core.profile.kv_handshake_timeout_seconds
        started = asyncio.get_running_loop().time()
        states: Words | None
        try:
            fetched = await side_channel.fetch(source, self._layout, timeout)
            await asyncio.sleep(self._seconds(fetched))
            states = await self._spoiler.spoil(fetched, self._core.options.block_size)
        except TransferError as error:
            log.warning("KV of %s could not be fetched: %s", source.request_id, error)
            states = None
            spent = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.0, timeout * self._speed - spent))
        self._deliver(request, states)

    async def _join(self, request: Request, meeting: Meeting) -> None:
        options = self._core.options
        states: Words | None
        try:
            host, port = await find_worker(meeting, options.connector_timeout_seconds)
            joined = side_channel.join(host, port, meeting.engine_id, self._layout, meeting.key)
            fetched = await asyncio.wait_for(joined, options.kv_lease_seconds + 60)
            await asyncio.sleep(self._seconds(fetched))
            states = await self._spoiler.spoil(fetched, self._core.options.block_size)
        except (TransferError, asyncio.TimeoutError) as error:
            log.warning("KV of %s did not come: %s", request.id, error or type(error).__name__)
            states = None
        self._deliver(request, states)

    async def _push(self, output: Output, target: PushTarget) -> None:
        request = output.request
        try:
            if "kv_push_lost" not in self._faults.take(Stage.KV_PUSHED):
                first = target.cached_tokens // self._core.options.block_size
                blocks = self._core.leases[request.id].blocks[first:]
                states = self._core.read_blocks(blocks[: len(target.blocks) - first])
                await asyncio.sleep(self._seconds(states))
                size = self._core.options.block_size
                await side_channel.push(target, self._layout, target.blocks[first:][: len(states) // size], states)
        except TransferError as error:
            log.error("KV of %s was not accepted: %s", request.id, error)
            output = replace(output, token=None, finish_reason="error")
        finally:
            self._core.leases.end(request.id)
            self._changed()
        self._deliver_output(output)

    async def _hold(self, output: Output, offer: Offer, standing: Standing) -> None:
        """An answer that waits until decode has the KV, as SGLang's prefill does."""
        request = output.request
        try:
            await asyncio.wait((standing.taken,), timeout=self._core.options.kv_lease_seconds)
        finally:
            self.rendezvous.withdraw(offer.key, standing)
            self._core.leases.end(request.id)
            self._changed()
        if not standing.taken.done():
            log.error("nobody came for the KV of %s", request.id)
            output = replace(output, token=None, finish_reason="error")
        self._deliver_output(output)

    def _deliver(self, request: Request, states: Words | None) -> None:
        self._tasks.pop(request, None)
        self._received(request, states)

    def _deliver_output(self, output: Output) -> None:
        self._tasks.pop(output.request, None)
        self._finished(output)

    def _seconds(self, states: Words) -> float:
        return self._core.profile.kv_transfer_seconds(len(states)) * self._speed
