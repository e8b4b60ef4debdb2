"""The KV of requests: taken from caches and stores, computed from tokens and embeddings, kept in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymotor.engines.sim import model
from pymotor.engines.sim.blocks import BlockPool
from pymotor.engines.sim.cache_events import CacheEvents, Stored
from pymotor.engines.sim.core_types import Announce, Counters, KVStore, StepResult
from pymotor.engines.sim.embedding_source import EmbeddingSource
from pymotor.engines.sim.encoder_cache import EncoderCache
from pymotor.engines.sim.prefix_keys import block_tokens, extend_keys, extra_keys
from pymotor.engines.sim.requests import Output, Request, Status
from pymotor.engines.sim.times import Work


class Computing:
    """Fills the blocks of requests and keeps each request's state in step with them."""

    def __init__(
        self,
        pool: BlockPool,
        encoder_cache: EncoderCache,
        embeddings: EmbeddingSource,
        kv_store: KVStore | None,
        counters: Counters,
        announce: Announce,
        *,
        prefix_caching: bool,
        events: CacheEvents | None,
    ) -> None:
        self.pool = pool
        self.encoder_cache = encoder_cache
        self.counters = counters
        self._embeddings = embeddings
        self._kv_store = kv_store
        self._announce = announce
        self._prefix_caching = prefix_caching
        self._events = events

    def grow(self, request: Request, positions: int) -> bool:
        missing = -(-positions // self.pool.block_size) - len(request.blocks)
        if missing <= 0:
            return True
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        request.blocks.extend(blocks)
        return True

    def release(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = request.state = request.readout = 0
        for item in request.media:
            self.encoder_cache.let_go(item.identifier, request.id)
        request.ready_media = 0

    def reuse(self, request: Request) -> None:
        """Take what the prefix cache and the KV store have; the last position is always computed."""
        usable = (request.length - 1) // self.pool.block_size
        found = self.pool.match(request.keys[:usable]) if request.keys else []
        if request.cached_tokens is None:
            self.counters.prefix_cache_queries += len(request.tokens)
            self.counters.prefix_cache_hits += len(found) * self.pool.block_size
        self.pool.share(found)
        request.blocks = found
        self.adopt(request, len(found) * self.pool.block_size)
        if self._kv_store is not None:
            self._load_stored(request)
        if request.cached_tokens is None:
            request.cached_tokens = request.computed

    def _load_stored(self, request: Request) -> None:
        assert self._kv_store is not None
        self.counters.external_prefix_cache_queries += len(request.tokens) - request.computed
        states = self._kv_store.load(request.tokens, tuple(item.identifier for item in request.media))
        if states is None or len(states) <= request.computed or not self.grow(request, len(states)):
            return
        self.counters.external_prefix_cache_hits += len(states) - request.computed
        self.pool.write(request.blocks, request.computed, states[request.computed :])
        self.adopt(request, len(states))

    def adopt(self, request: Request, positions: int) -> None:
        """Go on from KV that is in the request's blocks, whatever it is."""
        if positions <= request.computed:
            return
        states = self.pool.read(request.blocks)[request.computed : positions]
        request.readout = model.add(request.readout, model.attend(states, request.computed))
        request.state = int(states[-1])
        self._remember(request, request.computed, positions)
        request.computed = positions

    def prepare_media(self, request: Request, count: int, work: Work) -> int:
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

    def encode(self, request: Request, result: StepResult) -> bool:
        """Encode all items of a request; False when there is no room yet."""
        params: dict[str, Any] = {}
        embeddings = []
        for index, item in enumerate(request.media):
            embedding = self._embeddings.get(item, request, result.work)
            if embedding is None:
                return False
            self.encoder_cache.let_go(item.identifier, request.id)
            embeddings.append(embedding)
            said = self._announce(item, request)
            if said is not None:
                params.setdefault(item.identifier, {"item_indices": []}).update(said)
                params[item.identifier]["item_indices"].append(index)
        request.status = Status.FINISHED
        end = Output(request, finish_reason="stop", ec_transfer_params=params or None, embeddings=tuple(embeddings))
        result.outputs.append(end)
        return True

    def compute(self, request: Request, count: int, work: Work) -> None:
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
        """Offer the blocks that are full up to `stop`; they were up to `start`."""
        size = self.pool.block_size
        first, last = start // size, stop // size
        if first == last or not self._prefix_caching:
            return
        extend_keys(request, last, size)
        blocks, keys = request.blocks, request.keys
        while first < last and self.pool.carries(blocks[first], keys[first]):
            first += 1  # found there, not filled
        for index in range(first, last):
            self.pool.remember(blocks[index], keys[index])
        if self._events is not None and first < last:
            self._events.add(
                Stored(
                    keys=tuple(keys[first:last]),
                    parent=keys[first - 1] if first else None,
                    tokens=block_tokens(request, first, last, size),
                    extra_keys=tuple(extra_keys(request, index, size) for index in range(first, last)),
                    scope=request.scope,
                )
            )
