"""What Coordinators are answered: what the core knows, without those endpoints that are not followed without a gap.

Of a publisher that cannot be reached, or that is behind, nobody knows what it has removed meanwhile. What it told is
kept, since most breaks are short, but does not count until it is live again.

Coordinators are told of new endpoints together, a moment after they are followed; those count from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from pymotor.fleet.prefix_queries import PrefixMatches, PrefixQuery, PrefixRouted
from pymotor.kv_conductor.conductor_core import ConductorCore, EndpointMatch
from pymotor.kv_conductor.index import MOST_HOLDERS
from pymotor.kv_conductor.instruments import Figures
from pymotor.kv_conductor.publisher_view import PublisherView

TOGETHER_SECONDS = 0.02


class Answers:
    """The core, as far as it counts."""

    def __init__(self, core: ConductorCore, tell: Callable[[], None]) -> None:
        """`tell` is called when `followed` is new. To be made within the event loop."""
        self._loop = asyncio.get_running_loop()
        self._core = core
        self._tell = tell
        self._uncounted = np.zeros(MOST_HOLDERS, np.bool_)
        self._uncounted_number = 0
        self._to_count: set[str] = set()
        """Endpoints that count once Coordinators know them."""
        self._telling: asyncio.TimerHandle | None = None
        self.followed = core.followed()
        """The list that slots mean now."""

    # -- who counts

    @contextlib.contextmanager
    def holding(
        self, endpoint: str, models: Sequence[str], ranks: int, aliases: Collection[str]
    ) -> Iterator[Sequence[PublisherView]]:
        """Slots and views for an endpoint, which does not count yet; see `ConductorCore.follow`. Raises
        `TooManyHoldersError`."""
        views = self._core.follow(endpoint, models, ranks, aliases)
        try:
            self.count(endpoint, counted=False)
            self._changed()
            yield views
        finally:
            self._to_count.discard(endpoint)
            self._mark(endpoint, uncounted=False)
            self._core.unfollow(endpoint)
            self._changed()

    def count(self, endpoint: str, *, counted: bool) -> None:
        """Whether what is known of it counts; nothing happens for one that has no slots."""
        if not counted:
            self._to_count.discard(endpoint)
            self._mark(endpoint, uncounted=True)
        elif self._telling is not None:
            self._to_count.add(endpoint)
        else:
            self._mark(endpoint, uncounted=False)

    def _mark(self, endpoint: str, *, uncounted: bool) -> None:
        holder = self._core.holders.get(endpoint)
        if holder is not None and self._uncounted[holder.slots[0]] != uncounted:
            self._uncounted[holder.slots[0]] = uncounted
            self._uncounted_number += 1 if uncounted else -1

    def forget_routed(self, endpoint: str) -> None:
        """Nothing is expected there any more: it is another engine than before."""
        self._core.forget_routed(endpoint)

    def _changed(self) -> None:
        if self._telling is None:
            self._telling = self._loop.call_later(TOGETHER_SECONDS, self._tell_followed)

    def _tell_followed(self) -> None:
        self._telling = None
        self.followed = self._core.followed()
        for endpoint in self._to_count:
            self._mark(endpoint, uncounted=False)
        self._to_count.clear()
        self._tell()

    def close(self) -> None:
        """Nobody is told any more."""
        if self._telling is not None:
            self._telling.cancel()

    # -- questions

    def match(self, asker: Hashable, query: PrefixQuery) -> PrefixMatches:
        """Who holds the beginning of this prompt; the question is kept for `routed`."""
        matches = self._core.match(asker, query)
        if not self._uncounted_number and matches.revision == self.followed.revision:
            return matches
        kept = ~self._uncounted[np.frombuffer(matches.slots, "<u2")]
        return msgspec.structs.replace(
            matches,
            # Slots that are newer than what Coordinators know do not count yet, so the list that they know is right.
            revision=self.followed.revision,
            slots=_only(matches.slots, "<u2", kept),
            on_device=_only(matches.on_device, "<u4", kept),
            in_any_tier=_only(matches.in_any_tier, "<u4", kept),
            expected=_only(matches.expected, "<u4", kept),
        )

    def routed(self, asker: Hashable, message: PrefixRouted) -> bool:
        """The prompt of that question, of this asker, was sent there; as `ConductorCore.routed`."""
        return self._core.routed(asker, message)

    def forget_asker(self, asker: Hashable) -> None:
        """The asker is gone."""
        self._core.forget_asker(asker)

    # -- for people

    def explained(self, query: PrefixQuery) -> list[EndpointMatch]:
        """What is known of each endpoint that serves the model and counts, also of those that hold nothing."""
        return [one for one in self._core.explain(query).endpoints if self._counts(one.endpoint)]

    def _counts(self, endpoint: str) -> bool:
        holder = self._core.holders.get(endpoint)
        return holder is not None and not self._uncounted[holder.slots[0]]

    def measure(self, figures: Figures) -> None:
        """Bring the figures of the index up to date."""
        size = self._core.size()
        figures.entries.set(size.entries)
        figures.blocks.set(size.blocks)
        figures.memory.set(size.memory_bytes)
        figures.refused.set(size.refused)
        figures.set_passed_over(self._core.passed_over().by_reason())


def _only(packed: bytes, kind: str, kept: npt.NDArray[np.bool_]) -> bytes:
    chosen: bytes = np.frombuffer(packed, kind)[kept].tobytes()
    return chosen
