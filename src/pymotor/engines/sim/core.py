"""The engine core: continuous batching over paged KV, one pure `step` at a time.

The core knows neither sockets nor clocks. Time is handed in, embeddings and stored KV come through two small
interfaces; a step says which requests wait for KV of other engines and whose KV others get, and what came of it
is told afterwards.

Invariants:
1. a request has blocks only while it is running or waits for remote KV, or under a lease;
2. the answer depends on the words in a request's blocks and on its own output only;
3. neither prefix cache, chunking, batching nor preemption changes an answer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pymotor.engines.sim.blocks import BlockPool
from pymotor.engines.sim.cache_events import CacheEvents
from pymotor.engines.sim.computing import Computing
from pymotor.engines.sim.core_types import Announce, CoreOptions, Counters, EmbeddingStore, KVStore, StepResult
from pymotor.engines.sim.embedding_source import EmbeddingSource
from pymotor.engines.sim.encoder_cache import EncoderCache
from pymotor.engines.sim.handoffs import Lease, Nowhere, Offer, PushTarget, Source
from pymotor.engines.sim.leases import Leases
from pymotor.engines.sim.length_computing import LengthComputing
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.prefix_keys import extend_keys
from pymotor.engines.sim.requests import Awaited, EngineDeadError, Handover, Output, Request, Status
from pymotor.engines.sim.sampling import sample
from pymotor.engines.sim.times import Profile


class EngineCore:
    """A scheduler, its KV blocks and its embeddings."""

    def __init__(
        self,
        options: CoreOptions,
        profile: Profile,
        *,
        embeddings: EmbeddingStore | None = None,
        produces_embeddings: bool = False,
        consumes_embeddings: bool = False,
        kv_store: KVStore | None = None,
        announce: Announce = lambda item, _request: {"metadata": item.metadata},
        events: CacheEvents | None = None,
    ) -> None:
        """`events`: where to tell what the prefix cache gets and loses; whoever gives it has to take them."""
        self.options = options
        self.profile = profile
        self.pool = BlockPool(options.num_blocks, options.block_size, events, keeps_content=not options.lengths_only)
        self.encoder_cache = EncoderCache(options.max_num_batched_tokens)
        self.counters = Counters()
        self.waiting: deque[Request] = deque()
        self.fetching: dict[str, Request] = {}
        self.running: list[Request] = []
        self.leases = Leases(self.pool)
        source = EmbeddingSource(
            self.encoder_cache, embeddings, produces=produces_embeddings, consumes=consumes_embeddings
        )
        computing = LengthComputing if options.lengths_only else Computing
        self._computing = computing(
            self.pool,
            self.encoder_cache,
            source,
            kv_store,
            self.counters,
            announce,
            prefix_caching=options.prefix_caching,
            events=events,
        )

    # What callers do.

    def add(self, request: Request) -> None:
        """Queue a request. Raises `HandoffError` and `WrongRoleError` for transfer parameters it cannot accept."""
        request.source = self.options.handoffs.source(request.kv_transfer_params)
        request.target = self.options.handoffs.target(request.kv_transfer_params)
        if isinstance(request.target, Offer) and not request.target.answers_first:
            request.sampling = replace(request.sampling, max_tokens=1, min_tokens=1)  # as SGLang's prefill
        request.inputs = request.tokens.copy()
        if self.options.prefix_caching:
            extend_keys(request, len(request.tokens) // self.options.block_size, self.options.block_size)
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Forget a request at once, wherever it is; harmless when it is finished."""
        if request.status is Status.WAITING:
            self.waiting.remove(request)
        elif request.status is Status.WAITING_FOR_KV:
            del self.fetching[request.id]
        elif request.status is Status.RUNNING:
            self.running.remove(request)
        else:
            return
        self._computing.release(request)
        request.status = Status.FINISHED

    def receive_kv(self, request: Request, states: Words | None) -> Output | None:
        """KV for a request that waits for it: the words of the remote blocks, or None when they could not be had.

        Returns the request's end in the latter case. A request that was aborted meanwhile is passed over.
        """
        if request.id not in self.fetching:
            return None
        needed = len(request.tokens) - request.computed
        wanted = -(-needed // self.options.block_size) * self.options.block_size
        if states is None or len(states) < wanted:
            del self.fetching[request.id]
            self._computing.release(request)
            request.status = Status.FINISHED
            return Output(request, finish_reason="error")
        self.pool.write(request.blocks, request.computed, states[len(states) - wanted :][:needed])
        self.resume(request)
        return None

    def resume(self, request: Request) -> None:
        """Go on with what lies in the blocks of a request that waits for KV; another request is passed over."""
        if self.fetching.pop(request.id, None) is None:
            return
        self.counters.external_prefix_cache_hits += len(request.tokens) - request.computed
        request.pulled = True
        self._computing.adopt(request, len(request.tokens))
        request.status = Status.RUNNING
        self.running.append(request)

    def read_blocks(self, blocks: Sequence[int]) -> Words:
        """What another engine sees when it reads these blocks, whoever owns them now."""
        return self.pool.read(blocks)

    def write_blocks(self, blocks: Sequence[int], states: Words) -> None:
        """Another engine writes whole blocks, whoever owns them now. Raises `IndexError` for one that is not there."""
        self.pool.read(blocks)
        self.pool.write(blocks, 0, states)

    def waits_as(self, external_id: str) -> Request | None:
        """The request that waits for remote KV under the id that gateways know."""
        return next((request for request in self.fetching.values() if request.external_id == external_id), None)

    def preempt_youngest(self) -> None:
        """Preempt the request that began to run last, as a full KV cache would.

        Raises `EngineDeadError` where a real core would have died of it.
        """
        if self.running:
            self._preempt(self.running[-1])

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is held for any request; leases are for others and count too."""
        return not (self.has_work or self.fetching or self.leases or self.pool.used_count or self.encoder_cache.held)

    def step(self, now: float) -> StepResult:
        """Schedule one batch, compute it, and say what came of it.

        Raises `EngineDeadError` when a real engine's core would have died.
        """
        self.leases.expire(now)
        result = StepResult()
        budget = self.options.max_num_batched_tokens
        batch: list[tuple[Request, int]] = []
        preemptions = self.counters.preemptions
        budget = self._schedule_running(budget, batch, result)
        if self.counters.preemptions == preemptions:
            self._schedule_waiting(budget, batch, result)
        for request, count in batch:
            if request.scheduled is None:
                request.scheduled = now
            self._computing.compute(request, count, result.work)
            if request.computed == request.length:
                self._sample(request, now, result)
        result.progress = bool(batch or result.outputs or result.awaited)
        return result

    # Scheduling.

    def _schedule_running(self, budget: int, batch: list[tuple[Request, int]], result: StepResult) -> int:
        computing = self._computing
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            count = min(request.length - request.computed, budget)
            if count > 1 or request.computed < len(request.tokens):
                count = computing.prepare_media(request, count, result.work)
            if count > 0:
                while not computing.grow(request, request.computed + count):
                    victim = self.running[-1]
                    self._preempt(victim)
                    if victim is request:
                        break
                if request.status is not Status.RUNNING:
                    break
                batch.append((request, count))
                budget -= count
            elif request.computed == request.length:
                batch.append((request, 0))
            index += 1
        return budget

    def _schedule_waiting(self, budget: int, batch: list[tuple[Request, int]], result: StepResult) -> None:
        computing = self._computing
        while self.waiting and budget > 0 and len(self.running) + len(self.fetching) < self.options.max_num_seqs:
            request = self.waiting[0]
            if self.options.encode_only:
                if not computing.encode(request, result):
                    return
                self.waiting.popleft()
                budget -= sum(item.tokens for item in request.media)
                continue
            computing.reuse(request)
            source = _wanted_source(request)
            if source is not None:
                if not computing.grow(request, len(request.tokens)):
                    computing.release(request)
                    return
                self.waiting.popleft()
                self._wait_for_kv(request)
                result.awaited.append(Awaited(request, source))
                continue
            count = computing.prepare_media(request, min(request.length - request.computed, budget), result.work)
            if count == 0 or not computing.grow(request, request.computed + count):
                computing.release(request)
                return
            self.waiting.popleft()
            request.status = Status.RUNNING
            self.running.append(request)
            batch.append((request, count))
            budget -= count

    def _preempt(self, request: Request) -> None:
        if request.pulled and request.media:
            raise EngineDeadError("a request whose KV was pulled and that has media was preempted")
        self.running.remove(request)
        self._computing.release(request)
        request.status = Status.WAITING
        request.preemptions += 1
        self.counters.preemptions += 1
        self.waiting.appendleft(request)

    def _wait_for_kv(self, request: Request) -> None:
        self.counters.external_prefix_cache_queries += len(request.tokens) - request.computed
        request.cached_tokens = len(request.tokens)
        request.status = Status.WAITING_FOR_KV
        self.fetching[request.id] = request

    # Results.

    def _sample(self, request: Request, now: float, result: StepResult) -> None:
        token, reason, stop_reason = sample(request, self.options.eos_token, self.options.max_model_len)
        output = Output(request, token, reason, stop_reason)
        if reason is None:
            result.outputs.append(output)
        else:
            self._finish(output, now, result)

    def _finish(self, output: Output, now: float, result: StepResult) -> None:
        """Free what a finished request has, or lease it to the engine that will decode."""
        request = output.request
        self.running.remove(request)
        request.status = Status.FINISHED
        target = request.target
        if isinstance(target, Lease) and self.options.side_channel is not None:
            computed = request.computed
            blocks = self._lease(request, now + self.options.kv_lease_seconds)
            result.outputs.append(replace(output, kv_transfer_params=self._whereabouts(request, blocks, computed)))
        elif isinstance(target, PushTarget) or (isinstance(target, Offer) and _counts(target, output)):
            expires = now + self.options.kv_lease_seconds if isinstance(target, Offer) else math.inf
            self._lease(request, expires)
            result.handovers.append(Handover(output, target))
        elif isinstance(target, Nowhere):
            self._computing.release(request)
            result.handovers.append(Handover(output, target))
        else:
            self._computing.release(request)
            result.outputs.append(output)

    def _lease(self, request: Request, expires: float) -> tuple[int, ...]:
        blocks = tuple(request.blocks)
        request.blocks = []
        self._computing.release(request)
        self.leases.grant(request.id, blocks, expires)
        return blocks

    def _whereabouts(self, request: Request, blocks: tuple[int, ...], computed: int) -> dict[str, Any]:
        """What a pulling engine has to know, as NixlConnector's prefill says it."""
        assert self.options.side_channel is not None
        host, port = self.options.side_channel
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(blocks)],
            "remote_engine_id": self.options.engine_id,
            "remote_request_id": request.id,
            "remote_host": host,
            "remote_port": port,
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": computed,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
        }


def _wanted_source(request: Request) -> Source | None:
    """Where KV is to come from now; a request that was preempted is computed again here."""
    if request.pulled or request.output or request.computed >= len(request.tokens):
        return None
    return request.source


def _counts(offer: Offer, output: Output) -> bool:
    """Whether prefill ended as it must to hand over: MooncakeConnector keeps blocks for `length` only."""
    return not offer.answers_first or output.finish_reason == "length"
