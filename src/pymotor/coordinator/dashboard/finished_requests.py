"""The requests of one worker that are over and that the dashboard can still show: a bounded number, whatever comes.

What was followed goes into the newest, and beside them the slowest of the last minutes are kept. Failures are kept also
when nobody followed them: without their steps.
"""

from __future__ import annotations

import secrets
import time
from bisect import insort
from collections import deque
from collections.abc import Iterable
from time import monotonic

from pymotor.coordinator.dashboard.trail_budget import TrailBudget
from pymotor.coordinator.following import FollowedRequest, UnfollowedRequest
from pymotor.coordinator.request_log import outcome_of
from pymotor.coordinator.trail import Trail

NEWEST = 200
FAILURES = 50
SLOWEST = 50
SLOW_SECONDS = 300.0
"""How long a slow request is kept for being slow."""
_CHECK_SECONDS = 10.0
_LONGEST_TEXT = 256
"""Characters of what a client chose itself."""


class Finished:
    """One request that is over: no prompt, no answer, no header but its id, no key."""

    __slots__ = (
        "answer_bytes",
        "answer_events",
        "choice",
        "ended",
        "engine_request_id",
        "failed",
        "first_token_seconds",
        "id",
        "legs",
        "media_items",
        "model",
        "outcome",
        "path",
        "reason",
        "request_bytes",
        "request_id",
        "seconds",
        "spared",
        "started_at",
        "status",
        "stream",
        "trail",
    )

    def __init__(self, finished_id: str, over: FollowedRequest | UnfollowedRequest) -> None:
        """Takes what is small: the context and the request are not kept."""
        request, context = over.request, over.context
        self.id = finished_id
        self.ended = round(time.time(), 6)
        """Seconds since 1970, as they are told: whoever asks for what is newer is not told of it again."""
        self.started_at = request.received_at
        """`monotonic()`."""
        self.seconds = over.ended - request.received_at
        self.path = over.path
        self.status = over.status
        self.reason = over.reason
        self.failed = over.status >= 500 or bool(over.reason and over.status < 400)
        """Also a stream that broke off after its 200."""
        self.outcome = "failed" if self.failed else outcome_of(over.status)
        self.request_id = request.headers.get(b"x-request-id", b"")[:_LONGEST_TEXT]
        view = context.view if context is not None else None
        self.model = view.model[:_LONGEST_TEXT] if view is not None else ""
        self.stream = view is not None and view.stream
        self.request_bytes = view.size if view is not None else 0
        self.engine_request_id = context.leg_id if context is not None else b""
        self.first_token_seconds = context.first_token_seconds if context is not None else None
        self.legs = context.legs if context is not None else []
        """Name, instance and milliseconds."""
        self.spared = context.failed if context is not None else ()
        self.media_items = context.media_items if context is not None else 0
        self.answer_bytes = context.answer_bytes if context is not None else 0
        self.answer_events = context.answer_events if context is not None else 0
        self.choice = context.choice if context is not None else None
        self.trail: Trail | None = None


class FinishedRequests:
    """Kept by a worker; see `Follower`."""

    def __init__(self, worker: int, per_second: float) -> None:
        """`worker`: its number. `per_second`: requests that are followed for their own sake."""
        # Of another life of the same worker, ids are others.
        self._prefix = f"{worker}-{secrets.token_hex(4)}-"
        self._count = 0
        self._budget = TrailBudget(per_second, monotonic())
        self._newest: deque[Finished] = deque(maxlen=NEWEST)
        self._failures: deque[Finished] = deque(maxlen=FAILURES)
        self._slowest: list[tuple[float, int, Finished]] = []
        """The fastest first."""
        self._checked = 0.0

    def use(self, per_second: float) -> None:
        """From now on so many are followed."""
        self._budget.use(per_second)

    def wants(self, now: float) -> bool:
        """See `Follower`."""
        return self._budget.take(now)

    def over(self, followed: FollowedRequest) -> None:
        """See `Follower`."""
        found = self._finished(followed)
        found.trail = followed.trail
        self._newest.append(found)
        if found.failed:
            self._failures.append(found)
        if len(self._slowest) < SLOWEST or found.seconds > self._slowest[0][0]:
            insort(self._slowest, (found.seconds, self._count, found))
        if found.ended - self._checked >= _CHECK_SECONDS or len(self._slowest) > SLOWEST:
            self._forget_aged(found.ended)
        del self._slowest[: max(0, len(self._slowest) - SLOWEST)]

    def failed(self, unfollowed: UnfollowedRequest) -> None:
        """See `Following.failed`."""
        self._failures.append(self._finished(unfollowed))

    def newer(self, after: float) -> list[Finished]:
        """All that are kept and ended after `after`, seconds since 1970, the newest first."""
        self._forget_aged(time.time())
        found = {one.id: one for one in self._all() if one.ended > after}
        return sorted(found.values(), key=lambda one: one.ended, reverse=True)

    def find(self, finished_id: str) -> Finished | None:
        """The one of this id, if it is kept."""
        if not finished_id.startswith(self._prefix):
            return None
        return next((one for one in self._all() if one.id == finished_id), None)

    def _finished(self, over: FollowedRequest | UnfollowedRequest) -> Finished:
        self._count += 1
        return Finished(f"{self._prefix}{self._count}", over)

    def _forget_aged(self, now: float) -> None:
        self._checked = now
        self._slowest = [one for one in self._slowest if one[2].ended >= now - SLOW_SECONDS]

    def _all(self) -> Iterable[Finished]:
        yield from self._newest
        yield from self._failures
        yield from (one for _, _, one in self._slowest)
