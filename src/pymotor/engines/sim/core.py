"""The engine core: continuous batching over paged KV, one pure `step` at a time.

The core knows neither sockets nor clocks. Time is handed in, embeddings and stored KV come through two small
interfaces, and KV from other engines is asked for by a `Pull` in a step's result and handed in afterwards.

Invariants:
1. a request has blocks only while it is running or waits for remote KV, or under a lease;
2. the answer depends on the words in a request's blocks and on its own output only;
3. neither prefix cache, chunking, batching nor preemption changes an answer.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from pymotor.engines.sim import model
from pymotor.engines.sim.blocks import BlockPool
from pymotor.engines.sim.core_types import CoreOptions, Counters, EmbeddingStore, KVStore, Lease, StepResult
from pymotor.engines.sim.embedding_source import EmbeddingSource
from pymotor.engines.sim.encoder_cache import EncoderCache
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.prefix_keys import prefix_keys
from pymotor.engines.sim.requests import EngineDeadError, Output, Pull, Request, Status, remote_source
from pymotor.engines.sim.sampling import sample
from pymotor.engines.sim.times import Profile, Work


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
    ) -> None:
        self.options = options
        self.profile = profile
        self.pool = BlockPool(options.num_blocks, options.block_size)
        self.encoder_cache = EncoderCache(options.max_num_batched_tokens)
        self.counters = Counters()
        self.waiting: deque[Request] = deque()
        self.fetching: dict[str, Request] = {}
        self.running: list[Request] = []
        self.leases: dict[str, Lease] = {}
        self._embeddings = EmbeddingSource(
            self.encoder_cache, embeddings, produces=produces_embeddings, consumes=consumes_embeddings
        )
        self._kv_store = kv_store

    # What callers do.

    def add(self, request: Request) -> None:
        """Queue a request."""
        request.inputs = request.tokens.copy()
        if self.options.prefix_caching:
            request.keys = prefix_keys(request.tokens, request.media, self.options.block_size)
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
        self._release(request)
        request.status = Status.FINISHED

    def receive_kv(self, request: Request, states: Words | None) -> Output | None:
        """The result of a `Pull`: the words of the remote blocks, or None when they could not be had.

        Returns the request's end in the latter case. A request that was aborted meanwhile is passed over.
        """
        if self.fetching.pop(request.id, None) is None:
            return None
        needed = len(request.tokens) - request.computed
        blocks = -(-needed // self.options.block_size)
        wanted = blocks * self.options.block_size
        if states is None or len(states) < wanted:
            self._release(request)
            request.status = Status.FINISHED
            return Output(request, finish_reason="error")
        self.pool.write(request.blocks, request.computed, states[len(states) - wanted :][:needed])
        self.counters.external_prefix_cache_hits += needed
        request.pulled = True
        self._adopt(request, len(request.tokens))
        request.status = Status.RUNNING
        self.running.append(request)
        return None

    def read_blocks(self, blocks: tuple[int, ...]) -> Words:
        """What another engine sees when it reads these blocks, whoever owns them now."""
        return self.pool.read(blocks)

    def end_lease(self, request_id: str) -> None:
        """Another engine has what it wanted; harmless when the lease is over."""
        lease = self.leases.pop(request_id, None)
        if lease is not None:
            self.pool.release(lease.blocks)

    def lose_lease(self, request_id: str) -> None:
        """End a lease as if its time were up and its blocks had been reused by another request."""
        lease = self.leases.get(request_id)
        if lease is not None:
            self.pool.scribble(lease.blocks)
            self.end_lease(request_id)

    def preempt_youngest(self) -> None:
        """Preempt the request that began to run last, as a full KV cache would.

        Raises `EngineDeadError` where a real core would have died of it.
        """
        if self.running:
            self._preempt(self.running[-1])

    def expire_leases(self, now: float) -> None:
        """Free what nobody fetched in time."""
        for request_id in [name for name, lease in self.leases.items() if lease.expires <= now]:
            self.end_lease(request_id)

    @property
    def next_expiry(self) -> float | None:
        """When the first lease ends."""
        return min((lease.expires for lease in self.leases.values()), default=None)

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
        self.expire_leases(now)
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
            self._compute(request, count, result.work)
            if request.computed == request.length:
                self._sample(request, now, result)
        result.progress = bool(batch or result.outputs or result.pulls)
        return result

    # Scheduling.

    def _schedule_running(self, budget: int, batch: list[tuple[Request, int]], result: StepResult) -> int:
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            count = min(request.length - request.computed, budget)
            if count > 1 or request.computed < len(request.tokens):
                count = self._prepare_media(request, count, result.work)
            if count > 0:
                while not self._grow(request, request.computed + count):
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
        while self.waiting and budget > 0 and len(self.running) + len(self.fetching) < self.options.max_num_seqs:
            request = self.waiting[0]
            if self.options.encode_only:
                if not self._encode(request, result):
                    return
                self.waiting.popleft()
                budget -= sum(item.tokens for item in request.media)
                continue
            self._reuse(request)
            pull = self._wanted_pull(request)
            if pull is not None:
                if not self._grow(request, len(request.tokens)):
                    self._release(request)
                    return
                self.waiting.popleft()
                self._wait_for_kv(request)
                result.pulls.append(pull)
                continue
            count = self._prepare_media(request, min(request.length - request.computed, budget), result.work)
            if count == 0 or not self._grow(request, request.computed + count):
                self._release(request)
                return
            self.waiting.popleft()
            request.status = Status.RUNNING
            self.running.append(request)
            batch.append((request, count))
            budget -= count

    def _grow(self, request: Request, positions: int) -> bool:
        missing = -(-positions // self.options.block_size) - len(request.blocks)
        if missing <= 0:
            return True
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        request.blocks.extend(blocks)
        return True

    def _preempt(self, request: Request) -> None:
        if request.pulled and request.media:
            raise EngineDeadError("a request whose KV was pulled and that has media was preempted")
        self.running.remove(request)
        self._release(request)
        request.status = Status.WAITING
        request.preemptions += 1
        self.counters.preemptions += 1
        self.waiting.appendleft(request)

    def _release(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = request.state = request.readout = 0
        for item in request.media:
            self.encoder_cache.let_go(item.identifier, request.id)
        request.ready_media = 0

    # KV that need not be computed.

    def _reuse(self, request: Request) -> None:
        """Take what the prefix cache and the KV store have; the last position is always computed."""
        usable = (request.length - 1) // self.options.block_size
        found = self.pool.match(request.keys[:usable]) if request.keys else []
        if request.cached_tokens is None:
            self.counters.prefix_cache_queries += len(request.tokens)
            self.counters.prefix_cache_hits += len(found) * self.options.block_size
        self.pool.share(found)
        request.blocks = found
        self._adopt(request, len(found) * self.options.block_size)
        if self._kv_store is not None:
            self._load_stored(request)
        if request.cached_tokens is None:
            request.cached_tokens = request.computed

    def _load_stored(self, request: Request) -> None:
        assert self._kv_store is not None
        self.counters.external_prefix_cache_queries += len(request.tokens) - request.computed
        states = self._kv_store.load(request.tokens, tuple(item.identifier for item in request.media))
        if states is None or len(states) <= request.computed or not self._grow(request, len(states)):
            return
        self.counters.external_prefix_cache_hits += len(states) - request.computed
        self.pool.write(request.blocks, request.computed, states[request.computed :])
        self._adopt(request, len(states))

    def _adopt(self, request: Request, positions: int) -> None:
        """Go on from KV that is in the request's blocks, whatever it is."""
        if positions <= request.computed:
            return
        states = self.pool.read(request.blocks)[request.computed : positions]
        request.readout = model.add(request.readout, model.attend(states, request.computed))
        request.state = int(states[-1])
        self._remember(request, request.computed, positions)
        request.computed = positions

    def _wanted_pull(self, request: Request) -> Pull | None:
        if request.pulled or request.output or request.computed >= len(request.tokens):
            return None
        source = remote_source(request)
        return None if source is None else Pull(request, source)

    def _wait_for_kv(self, request: Request) -> None:
        self.counters.external_prefix_cache_queries += len(request.tokens) - request.computed
        request.cached_tokens = len(request.tokens)
        request.status = Status.WAITING_FOR_KV
        self.fetching[request.id] = request

    # Embeddings.

    def _prepare_media(self, request: Request, count: int, work: Work) -> int:
        """Fill in embeddings for the next `count` positions; returns how many can be computed."""
        while request.ready_media < len(request.media):
            item = request.media[request.ready_media]
            if item.offset >= request.computed + count:
                break
            if item.offset + item.tokens > request.computed:
                embedding = self._embeddings.get(item, request, work)
                if embedding is None:
                    return max(0, item.offset - request.computed)
                request.inputs[item.offset : item.offset + item.tokens] = embedding
            request.ready_media += 1
        return count

    def _encode(self, request: Request, result: StepResult) -> bool:
        """Encode all items of a request; False when there is no room yet."""
        params: dict[str, Any] = {}
        for index, item in enumerate(request.media):
            embedding = self._embeddings.get(item, request, result.work)
            if embedding is None:
                return False
            self.encoder_cache.let_go(item.identifier, request.id)
            entry = params.setdefault(item.identifier, {"item_indices": []})
            entry["metadata"] = item.metadata
            entry["item_indices"].append(index)
        request.status = Status.FINISHED
        result.outputs.append(Output(request, finish_reason="stop", ec_transfer_params=params or None))
        return True

    # Computing.

    def _compute(self, request: Request, count: int, work: Work) -> None:
        if count == 0:
            return
        start = request.computed
        if count == 1 and start >= len(request.tokens):
            state = model.decode(request.state, request.output[start - len(request.tokens)], start)
            self.pool.write_one(request.blocks, start, state)
            request.readout = model.add(request.readout, model.attend_one(state, start))
            request.state = state
            work.decode_sequences += 1
            work.decode_context_tokens += start
        else:
            inputs = request.inputs[start : start + count]
            if start + count > len(request.tokens):
                first = max(0, start - len(request.tokens))
                tail = np.array(request.output[first : start + count - len(request.tokens)], dtype=np.uint64)
                inputs = np.concatenate((inputs, tail))
            states = model.prefill(request.state, inputs, start)
            self.pool.write(request.blocks, start, states)
            request.readout = model.add(request.readout, model.attend(states, start))
            request.state = int(states[-1])
            work.prefill_tokens += count
        request.computed = start + count
        self._remember(request, start, request.computed)
        for item in request.media:
            if item.offset + item.tokens <= request.computed:
                self.encoder_cache.let_go(item.identifier, request.id)
        if self._kv_store is not None and start < len(request.tokens) <= request.computed:
            identifiers = tuple(item.identifier for item in request.media)
            self._kv_store.save(request.tokens, identifiers, self.pool.read(request.blocks)[: len(request.tokens)])

    def _remember(self, request: Request, start: int, stop: int) -> None:
        size = self.options.block_size
        for index in range(start // size, min(stop // size, len(request.keys))):
            self.pool.remember(request.blocks[index], request.keys[index])

    def _sample(self, request: Request, now: float, result: StepResult) -> None:
        token, reason, stop_reason = sample(request, self.options.eos_token, self.options.max_model_len)
        params = self._finish(request, now) if reason is not None else None
        result.outputs.append(Output(request, token, reason, stop_reason, kv_transfer_params=params))

    def _finish(self, request: Request, now: float) -> dict[str, Any] | None:
        """Free what a finished request has, or lease it to the engine that will decode."""
        self.running.remove(request)
        request.status = Status.FINISHED
        wanted = request.kv_transfer_params or {}
        if not wanted.get("do_remote_decode") or self.options.side_channel is None:
            self._release(request)
            return None
        host, port = self.options.side_channel
        blocks, computed = tuple(request.blocks), request.computed
        request.blocks = []
        self._release(request)
        self.leases[request.id] = Lease(blocks, now + self.options.kv_lease_seconds)
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
