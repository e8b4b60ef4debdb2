"""`/sim/…`: what tests ask of a running engine. Served only with `--sim-control`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict

import msgspec

from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.faults import Faults, parse_fault
from pymotor.engines.sim.fields import Fields

_TRACED = 1000
"""Requests whose traces are remembered."""


class Control:
    """Faults and state of one engine."""

    def __init__(self, driver: EngineDriver, faults: Faults, ports: Mapping[str, int]) -> None:
        self._driver = driver
        self._faults = faults
        self._ports = ports
        self._traced: deque[dict[str, str]] = deque(maxlen=_TRACED)

    def note_trace(self, exchange: Exchange) -> None:
        """Remember the trace that a request says it belongs to, if any."""
        parent = exchange.header(b"traceparent")
        if parent is not None:
            self._traced.append({
                "path": exchange.path,
                "request_id": exchange.header(b"x-request-id") or "",
                "traceparent": parent,
                "tracestate": exchange.header(b"tracestate") or "",
            })  # fmt: skip

    async def show_traces(self, exchange: Exchange) -> None:
        """The traces that the newest requests belonged to, in the order in which these came."""
        await exchange.respond(msgspec.json.encode({"requests": list(self._traced)}))

    async def show_faults(self, exchange: Exchange) -> None:
        """The faults that can still strike."""
        faults = [asdict(fault) for fault in self._faults.pending]
        await exchange.respond(msgspec.json.encode({"faults": faults}))

    async def add_faults(self, exchange: Exchange) -> None:
        """`{"faults": ["kind:key=value", …]}` are added."""
        wanted = Fields(await exchange.json()).strings("faults")
        try:
            faults = [parse_fault(text) for text in wanted]
        except ValueError as error:
            raise RequestError(str(error), param="faults") from error
        for fault in faults:
            self._faults.add(fault)
        await self.show_faults(exchange)

    async def clear_faults(self, exchange: Exchange) -> None:
        """No faults from now on."""
        self._faults.clear()
        await self.show_faults(exchange)

    async def state(self, exchange: Exchange) -> None:
        """What is held at this moment; all zero but totals, sizes and ports when nobody asks."""
        core = self._driver.core
        state = {
            "dead": self._driver.dead,
            "running": len(core.running),
            "waiting": len(core.waiting),
            "waiting_for_kv": len(core.fetching),
            "transfers": self._driver.transfers.count,
            "embeddings_moving": self._driver.moving,
            "embeddings_kept": 0 if self._driver.exchange is None else self._driver.exchange.kept,
            "offers": self._driver.transfers.rendezvous.offers,
            "waiting_for_offers": self._driver.transfers.rendezvous.waiting,
            "blocks_used": core.pool.used_count,
            "blocks": core.pool.count,
            "leases": len(core.leases),
            "embeddings_held": core.encoder_cache.held,
            "embedding_tokens": core.encoder_cache.used_tokens,
            "preemptions": core.counters.preemptions,
            "ports": self._ports,
        }
        await exchange.respond(msgspec.json.encode(state))

    async def reset_cache(self, exchange: Exchange) -> None:
        """Empty the prefix cache, as vLLM's `/reset_prefix_cache` does in dev mode."""
        self._driver.core.pool.forget_all()
        await exchange.respond(msgspec.json.encode({"success": True}))

    async def profile(self, exchange: Exchange) -> None:
        """Nothing is profiled; vLLM answers with nothing too, where it was started for it."""
        await exchange.respond(b"")
