"""Which requests run now, and which wait until there is room at the engines.

Two limits, each off where it is not wanted:

- `max_running` says how many requests an endpoint of a role has at a time. A request runs when every stage of its way
  has an endpoint with a free place (as many places as it has answers, if it is several).
- A request with media that goes through prefill and decode runs when a decode endpoint has room for its whole KV
  cache: the preemption of such a request ends the engine core of vLLM 0.32. Text requests count there with the KV
  cache that is promised to them, but do not wait for it.

What does not run waits in the line (`scheduling.waiting_line`), which all workers share, by priority and arrival. With
waiters there is no passing by: newcomers join. Without, two workers may see the same last place free in the same
microseconds: then an endpoint has at most one request for each further worker above its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError, invalid
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.routing import Pair, Single
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.room import Room
from pymotor.coordinator.scheduling.target import Group
from pymotor.coordinator.scheduling.waiting_line import (
    PLAIN,
    WITH_MEDIA,
    LineFull,
    WaitedTooLong,
    WaitingLine,
    key_of,
)
from pymotor.coordinator.settings import RequestLimits

Way = Pair | Single
Found = TypeVar("Found")

_ENCODE_LANE = "encode"
_priority_decoder = msgspec.json.Decoder(int | None)


class Asking(Protocol):
    """What is asked of a request; `flows.context.Context` has it."""

    view: RequestView
    started_at: float
    whole_by: float
    without_decode: bool

    def spared(self) -> frozenset[str]:
        """Ids of endpoints that get nothing of it while others are left."""


class Admission:
    """Lets the requests of one worker through, or has them wait."""

    __slots__ = ("_instruments", "_limits", "_line", "limited", "room")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: Ledger,
        column: int,
        limits: RequestLimits,
        instruments: Instruments,
    ) -> None:
        """`column` is the worker's own in the ledger."""
        self._limits = limits
        self._instruments = instruments
        self._line = WaitingLine(loop, ledger, column, limits.max_queued)
        self.room = Room(ledger, limits)
        self.limited = self.room.limited
        """Whether endpoints have a limit: without one only requests with media need to be admitted."""

    def use(self, limits: RequestLimits) -> None:
        """These limits hold from now on, for those that wait too. `queue_timeout` is counted from their beginning by
        those alone that come later."""
        self._limits = limits
        self._line.longest = limits.max_queued
        self.room.use(limits)
        self.limited = self.room.limited

    async def admit(self, asking: Asking, choose: Callable[[], Way]) -> Way:
        """The way to go, found by `choose`, as soon as it has room; what it needs there is to be reserved before
        anything else is awaited. Raises `ApiError`: 429 or 503 where it has to wait for too long, 400 where it can
        never fit, and what `choose` raises."""
        way = self._possible(asking, choose)
        lane, slot, plane = self._lane_of(asking, way)
        if not self._line.is_busy(slot, plane) and self.fits(asking, way):
            return way
        return await self._wait(asking, lane, slot, plane, choose, partial(self.fits, asking))

    async def admit_item(self, asking: Asking, group: Group) -> None:
        """Return when an encoder of `group` has a free place for a media item; see `admit`."""

        def fits(encoders: Group) -> bool:
            return self.room.has_places(encoders, 1, asking.spared())

        slot = group.rows[0]
        if self._line.is_busy(slot, PLAIN) or not fits(group):
            await self._wait(asking, (_ENCODE_LANE, slot), slot, PLAIN, lambda: group, fits)

    def fits(self, asking: Asking, way: Way) -> bool:
        """Whether there is room for the request on this way now."""
        view = asking.view
        room = self.room
        spared = asking.spared()
        places = view.n * (len(view.prompts) or 1)
        if isinstance(way, Single):
            return room.has_places(way.targets, 1, spared)
        if not room.has_places(way.prefills, places, spared):
            return False
        if not room.has_places(way.decodes, places, spared):
            return False
        return not self._waits_for_kv(view) or room.has_kv(way.decodes, view, places, spared)

    def _possible(self, asking: Asking, choose: Callable[[], Way]) -> Way:
        """The way `choose` finds; without prefill and decode where no decode endpoint is large enough."""
        way = choose()
        if not isinstance(way, Pair) or not self._waits_for_kv(asking.view):
            return way
        if self.room.could_fit(way.decodes, asking.view):
            return way
        asking.without_decode = True
        try:
            return choose()
        except ApiError as error:
            self._instruments.rejected("kv_too_small")
            raise ApiError(
                400,
                "the KV cache of the prompt with its media and of the answer is larger than the "
                f"{self.room.largest(way.decodes)} tokens that the largest decode endpoint has; send fewer or smaller "
                "media, or a lower max_tokens",
                param="messages",
                code="kv_cache_too_small",
            ) from error

    def _waits_for_kv(self, view: RequestView) -> bool:
        return bool(view.media) and self._limits.media_needs_kv_room

    def _lane_of(self, asking: Asking, way: Way) -> tuple[Hashable, int, int]:
        """The lane of requests that wait for the same, the row its endpoints are known by, and what it waits for."""
        view = asking.view
        if isinstance(way, Single):
            return (view.model, PLAIN, Single), way.targets.rows[0], PLAIN
        plane = WITH_MEDIA if self._waits_for_kv(view) else PLAIN
        return (view.model, plane, Pair), way.decodes.rows[0], plane

    async def _wait(
        self,
        asking: Asking,
        lane: Hashable,
        slot: int,
        plane: int,
        choose: Callable[[], Found],
        fits: Callable[[Found], bool],
    ) -> Found:
        def fits_now() -> bool:
            try:
                return fits(choose())
            except ApiError:
                # It is called, finds the same and tells the client.
                return True

        line = self._line
        seconds = min(self._limits.queue_timeout, max(0.0, asking.whole_by - monotonic()))
        key = key_of(_priority(asking.view), asking.started_at)
        try:
            waiter = line.join(lane, slot, plane, key, fits_now, seconds)
        except LineFull as error:
            self._instruments.rejected("queue_full")
            raise ApiError(
                429,
                f"{self._limits.max_queued} requests wait already; try again later",
                code="queue_full",
                retry_after=line.seconds_to_wait(),
            ) from error
        served = False
        try:
            while True:
                await line.called(waiter)
                found = choose()
                if fits(found):
                    served = True
                    return found
                line.not_yet(waiter)
        except WaitedTooLong as error:
            self._instruments.rejected("queue_timeout")
            raise ApiError(
                503,
                f"no engine had room for the request within {seconds:g} s; try again later",
                code="queue_timeout",
                retry_after=line.seconds_to_wait(),
            ) from error
        finally:
            line.leave(waiter, served=served)
            self._instruments.queue_seconds.observe(monotonic() - waiter.joined_at)


def _priority(view: RequestView) -> int:
    """The `priority` of the request; lower values go first. Raises `ApiError` (400)."""
    raw = view.fields.get("priority")
    if raw is None:
        return 0
    try:
        return _priority_decoder.decode(raw) or 0
    except UNREADABLE as error:
        raise invalid("priority must be an integer", "priority") from error
