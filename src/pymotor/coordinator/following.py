"""Who wants to know what happens to requests, and which of them are followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.trail import RECEIVE, Trail


class FollowedRequest(NamedTuple):
    """A request that is over, and all that is known of it."""

    trail: Trail
    request: ClientRequest
    path: str
    """As metrics name it."""
    context: Context | None
    """None where it was refused before its way began."""
    status: int
    reason: str
    """A word for why it failed; empty where it did not."""
    ended: float
    """`monotonic()`."""


class UnfollowedRequest(NamedTuple):
    """A request that failed and that nobody followed; see `FollowedRequest`."""

    request: ClientRequest
    path: str
    context: Context | None
    status: int
    reason: str
    ended: float


class FailureWatcher(Protocol):
    """Somebody who wants to know of failures that were not followed, too."""

    def failed(self, unfollowed: UnfollowedRequest) -> None:
        """See `Following.failed`; as `Follower.over`."""


class Follower(Protocol):
    """Somebody who wants to know of some requests."""

    def wants(self, now: float) -> bool:
        """Whether the request that begins `now` (`monotonic()`) is to be followed. Hot path."""

    def over(self, followed: FollowedRequest) -> None:
        """A request that was followed, for this one or another, is over. Must return at once; what it keeps of
        `context` and `request` keeps their bodies."""


class TrailMaker(Follower, Protocol):
    """Decides which requests are traced."""

    def begin(self, request: ClientRequest) -> tuple[Trail | None, bytes]:
        """A trail for a request whose trace is exported, and header lines for engines where it is not."""


class Following:
    """Makes the trails of one worker's requests and shows them to those that asked."""

    __slots__ = ("_asked", "_failures", "_followers", "_traces")

    def __init__(
        self,
        followers: Sequence[Follower],
        traces: TrailMaker | None = None,
        failures: FailureWatcher | None = None,
    ) -> None:
        """`traces` is one of the followers, if there is one."""
        self._failures = failures
        self._followers = tuple(followers)
        self._asked = tuple(follower for follower in followers if follower is not traces)
        self._traces = traces

    def begin(self, request: ClientRequest) -> tuple[Trail | None, bytes]:
        """The trail of a request, None where nobody wants it; and header lines for all its legs."""
        trail: Trail | None = None
        lines = b""
        if self._traces is not None:
            trail, lines = self._traces.begin(request)
        if trail is None:
            for follower in self._asked:
                if follower.wants(request.received_at):
                    trail = Trail()
                    break
            else:
                return None, lines
        if request.began_at:
            trail.begin_wait(RECEIVE, request.began_at).ended = request.received_at
        return trail, lines

    def over(self, followed: FollowedRequest) -> None:
        """A request with a trail is over."""
        for follower in self._followers:
            follower.over(followed)

    def failed(self, unfollowed: UnfollowedRequest) -> None:
        """A request without a trail is over: its status is 500 or above, or its answer broke off."""
        if self._failures is not None:
            self._failures.failed(unfollowed)
