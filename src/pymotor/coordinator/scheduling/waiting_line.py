"""Requests that wait for room, in one order across all workers.

Each worker keeps its own waiters in lanes, one for each kind of request that waits for the same endpoints. A lane is
served strictly in order: priority first (lower values first, as vLLM has it), then arrival. Order between workers
comes from shared memory: each worker publishes the key of its first waiter for each endpoint group, and nobody lets
a waiter or a newcomer pass a key that is smaller than its own. A key is one integer, priority above the microsecond
of arrival, so that it is written and read whole.

While it has waiters a worker looks every two milliseconds whether the first of them fits. It is told of nothing, so
no wake-up can be lost, neither with the worker that frees a place nor with one that dies. A worker that has not
looked for a second is passed over until it does again.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Hashable
from time import monotonic

from pymotor.coordinator.scheduling.ledger import Ledger

PLAIN, WITH_MEDIA = 0, 1
"""What a lane waits for: places, or places and room for KV cache. The two do not block each other."""

_CELLS = 2
"""The plane of single cells: how many wait, and the millisecond at which the worker looked last."""
_WAITING, _LOOKED = 0, 1
_LOOK_SECONDS = 0.002
_PASSED_OVER_AFTER_MS = 1000
_PRIORITY_BOUND = 255
_ARRIVAL_BITS = 50
_SMOOTHING = 0.2
_LONGEST_ESTIMATE = 120


class LineFull(Exception):
    """As many wait as may."""


class WaitedTooLong(Exception):
    """The deadline passed."""


def key_of(priority: int, arrival: float) -> int:
    """The place in the order: lower is earlier, and more than 0. `arrival` is `monotonic()`; priorities beyond
    ±255 count as that."""
    bounded = max(-_PRIORITY_BOUND, min(_PRIORITY_BOUND, priority))
    return (bounded + _PRIORITY_BOUND + 1 << _ARRIVAL_BITS) + int(arrival * 1e6)


class Lane:
    """Waiters that are served one after the other; a heap, in which those that left stay until they come up."""

    __slots__ = ("gone", "plane", "slot", "waiters")

    def __init__(self, slot: int, plane: int) -> None:
        self.slot = slot
        self.plane = plane
        self.waiters: list[Waiter] = []
        self.gone = 0

    def tidy(self) -> None:
        """Forget those that left, at the latest when they are most."""
        waiters = self.waiters
        if self.gone * 2 > len(waiters):
            self.waiters = [waiter for waiter in waiters if not waiter.gone]
            heapq.heapify(self.waiters)
            self.gone = 0
        while self.waiters and self.waiters[0].gone:
            heapq.heappop(self.waiters)
            self.gone -= 1


class Waiter:
    """One request's place in a lane, from `WaitingLine.join` to `WaitingLine.leave`."""

    __slots__ = ("clock", "expired", "fits", "gone", "joined_at", "key", "lane", "number", "turn")

    def __init__(self, lane: Lane, key: int, number: int, fits: Callable[[], bool], turn: asyncio.Future[None]) -> None:
        self.lane = lane
        self.key = key
        self.number = number
        self.fits = fits
        self.turn = turn
        self.joined_at = monotonic()
        self.expired = False
        self.gone = False
        self.clock: asyncio.TimerHandle

    def __lt__(self, other: Waiter) -> bool:
        return (self.key, self.number) < (other.key, other.number)

    def expire(self) -> None:
        """Its deadline has passed."""
        self.expired = True
        if not self.turn.done():
            self.turn.set_result(None)


class WaitingLine:
    """All waiters of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ledger: Ledger, column: int, longest: int) -> None:
        """At most `longest` requests of all workers wait."""
        self._loop = loop
        self.longest = longest
        self._own = [ledger.line(column, plane) for plane in (PLAIN, WITH_MEDIA)]
        self._own_cells = ledger.line(column, _CELLS)
        others = [number for number in range(ledger.columns) if number != column]
        self._others = [
            (ledger.line(number, _CELLS), [ledger.line(number, plane) for plane in (PLAIN, WITH_MEDIA)])
            for number in others
        ]
        self._lanes: dict[Hashable, Lane] = {}
        self._published: dict[tuple[int, int], int] = {}
        self._joined = 0
        self._called: Waiter | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._gap = 0.0
        self._last_served = 0.0

    # -- for those who wait

    def is_busy(self, slot: int, plane: int) -> bool:
        """Whether somebody waits there, in whichever worker: then a newcomer has to join."""
        return bool(self._own[plane][slot]) or self._first_elsewhere(slot, plane) is not None

    def join(self, lane: Hashable, slot: int, plane: int, key: int, fits: Callable[[], bool], seconds: float) -> Waiter:
        """Wait in `lane` for endpoints known by `slot`, the ledger row of one of them, until `fits()`, at most
        `seconds`. Raises `LineFull`."""
        if self.waiting() >= self.longest:
            raise LineFull
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = Lane(slot, plane)
        self._joined += 1
        waiter = Waiter(found, key, self._joined, fits, self._loop.create_future())
        waiter.clock = self._loop.call_later(seconds, waiter.expire)
        if not self._own_cells[_WAITING]:
            self._last_served = waiter.joined_at
        self._own_cells[_WAITING] += 1
        heapq.heappush(found.waiters, waiter)
        self._advance()
        return waiter

    async def called(self, waiter: Waiter) -> None:
        """Return when it is the waiter's turn: it looks whether it fits, and says `not_yet` or leaves before it awaits
        anything else. Raises `WaitedTooLong`."""
        await waiter.turn
        if waiter.expired:
            raise WaitedTooLong

    def not_yet(self, waiter: Waiter) -> None:
        """It was called and found no room: somebody who did not wait was quicker."""
        self._called = None
        if not waiter.expired:
            waiter.turn = self._loop.create_future()

    def leave(self, waiter: Waiter, *, served: bool) -> None:
        """It waits no more; where it was `served`, its reservation is made before this turn of the loop ends."""
        waiter.gone = True
        waiter.lane.gone += 1
        waiter.clock.cancel()
        if self._called is waiter:
            self._called = None
        self._own_cells[_WAITING] -= 1
        if served:
            now = monotonic()
            gap = now - self._last_served
            self._gap = self._gap + _SMOOTHING * (gap - self._gap) if self._gap else gap
            self._last_served = now
        # After the reservation: until then nobody else shall take the room for free.
        self._loop.call_soon(self._advance)

    # -- for those who want to know

    def waiting(self) -> int:
        """How many wait, in all workers."""
        total: int = self._own_cells[_WAITING]
        for cells, _ in self._others:
            total += cells[_WAITING]
        return total

    def seconds_to_wait(self) -> int:
        """How long somebody who joins now would wait, by how quickly this worker's waiters were served of late."""
        waiting = self._own_cells[_WAITING]
        gap = max(self._gap, monotonic() - self._last_served) if waiting else self._gap
        return min(_LONGEST_ESTIMATE, max(1, math.ceil(gap * (waiting + 1))))

    # -- the order

    def _look(self) -> None:
        self._looking = None
        self._advance()

    def _advance(self) -> None:
        """Call the first waiter that fits, publish who is first, and look again while anybody waits."""
        self._tidy()
        if self._lanes:
            self._own_cells[_LOOKED] = _milliseconds()
            self._publish()
            if self._called is None:
                self._call_first()
            if self._looking is None:
                self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        else:
            self._publish()

    def _call_first(self) -> None:
        for lane in sorted(self._lanes.values(), key=_first_key):
            waiter = lane.waiters[0]
            if waiter.turn.done():
                continue
            ahead = self._first_elsewhere(lane.slot, lane.plane)
            if (ahead is None or ahead >= waiter.key) and waiter.fits():
                # One at a time: the next is looked at when this one has made its reservation.
                self._called = waiter
                waiter.turn.set_result(None)
                return

    def _tidy(self) -> None:
        for name, lane in list(self._lanes.items()):
            lane.tidy()
            if not lane.waiters:
                del self._lanes[name]

    def _publish(self) -> None:
        firsts: dict[tuple[int, int], int] = {}
        for lane in self._lanes.values():
            place = (lane.plane, lane.slot)
            firsts[place] = min(lane.waiters[0].key, firsts.get(place, lane.waiters[0].key))
        if firsts == self._published:
            return
        for plane, slot in self._published.keys() - firsts.keys():
            self._own[plane][slot] = 0
        for (plane, slot), key in firsts.items():
            self._own[plane][slot] = key
        self._published = firsts

    def _first_elsewhere(self, slot: int, plane: int) -> int | None:
        """The smallest key that another worker, one that looks after its waiters, has published there."""
        first: int | None = None
        for cells, planes in self._others:
            key: int = planes[plane][slot]
            if key and (first is None or key < first) and _milliseconds() - cells[_LOOKED] < _PASSED_OVER_AFTER_MS:
                first = key
        return first


def total_waiting(ledger: Ledger) -> int:
    """How many requests wait in all workers."""
    return sum(ledger.line(column, _CELLS)[_WAITING] for column in range(ledger.columns))


def _first_key(lane: Lane) -> int:
    return lane.waiters[0].key


def _milliseconds() -> int:
    return int(monotonic() * 1000)
