"""Simulated engines in virtual time: the simulator's own scheduler, block pool, events and costs, and no sockets."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from pymotor.engines.sim import model
from pymotor.engines.sim.cache_events import CacheEvent, CacheEvents, Removed
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import CoreOptions, StepResult
from pymotor.engines.sim.requests import Request
from pymotor.engines.sim.times import Profile, Work

LONGEST = 1 << 18
"""Tokens of prompt and answer."""
REPORTED_TOKENS = 64
"""An answer's tokens between two points at which somebody looks at it."""


class Progress(NamedTuple):
    """What a request got."""

    request: Request
    tokens: int
    finished: bool


class VirtualEngine:
    """One core and what it did. Time is the caller's: `begin` says when what it does now will be over, `finish` ends
    it.

    Decode steps in which the scheduler has nothing to decide (nobody waits, no block becomes full, no answer ends)
    are taken together, with `skips`; a request that comes meanwhile cuts the run at the end of the step under way.
    """

    def __init__(self, blocks: int, block_size: int, profile: Profile, *, skips: bool = True) -> None:
        self._events = CacheEvents()
        options = CoreOptions(num_blocks=blocks, block_size=block_size, max_model_len=LONGEST, lengths_only=True)
        self.core = EngineCore(options, profile, events=self._events)
        self.busy_seconds = 0.0
        self.prefilled_tokens = 0
        self.removed_blocks = 0
        self._skips = skips
        self._pending: dict[Request, list[bytes]] = {}
        self._pending_keys: Counter[bytes] = Counter()
        self._result: StepResult | None = None
        self._run: list[tuple[float, float]] = []
        """Of each step of a run its end and what it takes."""

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.core.add(request)
        self._pending[request] = list(request.keys)
        self._pending_keys.update(request.keys)

    @property
    def working(self) -> bool:
        """Whether something is under way."""
        return self._result is not None or bool(self._run)

    def begin(self, now: float) -> float | None:
        """Go on; returns when that is over, or None where there is nothing to do until a request comes."""
        if not self.core.has_work:
            return None
        steps = self._free_steps() if self._skips else 0
        if steps > 1:
            self._run = self._timed(now, steps)
            return self._run[-1][0]
        result = self.core.step(now)
        if not result.progress:
            return None
        self._result = result
        seconds = result.work.seconds(self.core.profile)
        self.busy_seconds += seconds
        self.prefilled_tokens += result.work.prefill_tokens
        return now + seconds

    def cut(self, now: float) -> float | None:
        """A request came: a run is over with the step under way, at the time that is returned. None: there is none."""
        if not self._run:
            return None
        del self._run[bisect_left(self._run, (now, 0.0)) + 1 :]
        return self._run[-1][0]

    def finish(self) -> tuple[Sequence[Progress], Sequence[CacheEvent]]:
        """What was under way is over: what requests got, and what happened to the prefix cache."""
        if self._run:
            return self._finish_run(), ()
        result, self._result = self._result, None
        assert result is not None
        progress = [Progress(output.request, 1, output.finish_reason is not None) for output in result.outputs]
        for each in progress:
            if each.finished:
                self._pending_keys.subtract(self._pending.pop(each.request))
        events = self._events.take()
        self.removed_blocks += sum(isinstance(event, Removed) for event in events)
        return progress, events

    def holds(self, keys: Sequence[bytes]) -> int:
        """Blocks of a prompt's beginning that are in the cache, or will be when the requests before it are computed."""
        pool = self.core.pool
        count = 0
        for key in keys:
            if not (pool.has(key) or self._pending_keys.get(key, 0) > 0):
                break
            count += 1
        return count

    def _free_steps(self) -> int:
        """Decode steps from here on in which nothing happens but that every running request gets a token."""
        if self.core.waiting:
            return 0
        size = self.core.options.block_size
        steps = REPORTED_TOKENS
        for request in self.core.running:
            computed, produced = request.computed, len(request.output)
            if computed < len(request.tokens) or computed + 1 != request.length:
                return 0
            steps = min(
                steps,
                request.sampling.max_tokens - produced - 1,
                len(request.blocks) * size - computed - 1,
                REPORTED_TOKENS - produced % REPORTED_TOKENS,
            )
        return steps

    def _timed(self, now: float, steps: int) -> list[tuple[float, float]]:
        running, profile = self.core.running, self.core.profile
        work = Work(decode_sequences=len(running), decode_context_tokens=sum(each.computed for each in running))
        run = []
        for _ in range(steps):
            seconds = work.seconds(profile)
            now += seconds
            run.append((now, seconds))
            work.decode_context_tokens += len(running)
        return run

    def _finish_run(self) -> list[Progress]:
        run, self._run = self._run, []
        for _, seconds in run:
            self.busy_seconds += seconds
        progress = []
        for request in self.core.running:
            length = request.length
            request.output.extend(map(_token_at, range(length, length + len(run))))
            request.computed += len(run)
            progress.append(Progress(request, len(run), finished=False))
        return progress


@cache
def _token_at(position: int) -> int:
    """The token that the core, which computes nothing, puts there."""
    return model.next_token(0, position, None, 0, eos_allowed=False)
