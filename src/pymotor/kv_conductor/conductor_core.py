"""The KV Conductor without its sockets: who follows events and who answers Coordinators both use this.

```
core = ConductorCore()
views = core.follow("prefill-0/0", ("qwen",), ranks=2)           # a PublisherView for each rank
views[0].apply(decode_batch(payload))                            # each message, in order
views[0].clear()                                                 # restart of the engine, or events lost
core.followed()                                                  # for Coordinators, whenever its revision changed
core.match(connection, query)                                    # PrefixMatches
core.routed(connection, told)
core.forget_asker(connection)
core.unfollow("prefill-0/0")
```

The table of endpoints and slots is here (`holders.py`). All of it belongs to one thread; nothing here waits.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Hashable, Sequence

import msgspec
import numpy as np

from pymotor.fleet.prefix_queries import Followed, PrefixMatches, PrefixQuery, PrefixRouted
from pymotor.kv_conductor.holders import Holder, Holders
from pymotor.kv_conductor.index import PrefixIndex
from pymotor.kv_conductor.matching import Matches, Matching
from pymotor.kv_conductor.media_items import MediaItems, WrittenPrompt, write_out
from pymotor.kv_conductor.passed_over import PassedOver
from pymotor.kv_conductor.prompt_keys import PromptKeys
from pymotor.kv_conductor.publisher_view import PublisherView
from pymotor.kv_conductor.questions import AskedQuestions, Beginnings
from pymotor.kv_conductor.routed import RoutedPrompts

_SIZE_BEFORE_EVENTS = 16
"""Tokens; at which prompts are remembered as routed before an engine told its block size."""


class EndpointMatch(msgspec.Struct, frozen=True):
    """What is known of one endpoint for one prompt, for people."""

    endpoint: str
    on_device: int
    """Tokens, like the next two; see `PrefixMatches`."""
    in_any_tier: int
    expected: int
    block_size: int
    """Tokens; 0: it told of no block yet."""
    blocks: list[int]
    """That each of its publishers told of and still has."""


class Explanation(msgspec.Struct, frozen=True):
    """A question's answer, for people."""

    prompt_tokens: int
    """With media items written out, as far as they are known."""
    whole: bool
    """False: a media item is not known, and the prompt was only followed up to it."""
    endpoints: list[EndpointMatch]


class ConductorSize(msgspec.Struct, frozen=True):
    """How much is kept."""

    entries: int
    """Pairs of a block and a publisher that told of it."""
    blocks: int
    """Distinct ones."""
    memory_bytes: int
    refused: int
    """Blocks that were not taken because `most_entries` was reached."""
    holder_sets: int
    media_items: int
    routed_prompts: int


class ConductorCore:
    """The index, its publishers and the questions."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        most_entries: int = 1 << 25,
        routed_seconds: float = 2.0,
        secret: bytes | None = None,
    ) -> None:
        """`clock`: seconds. `routed_seconds`: how long a short prompt is expected where it was sent. `secret`: keys
        depend on it; random if not told."""
        self._routed = RoutedPrompts(clock, routed_seconds)
        self.index = PrefixIndex(most_entries, self._routed)
        self.holders = Holders()
        self._keys = PromptKeys(secret if secret is not None else secrets.token_bytes(16))
        self._media = MediaItems()
        self._asked = AskedQuestions()
        self._views: dict[str, list[PublisherView]] = {}
        self._passed_over = PassedOver()
        """Of views that have ended."""
        self._matching = Matching(self.index, self.holders, self._routed)

    def follow(
        self, endpoint: str, models: Sequence[str], ranks: int = 1, aliases: Collection[str] = ()
    ) -> list[PublisherView]:
        """The views that take the endpoint's events, one for each rank that the engine balances itself.

        `models`: the names that clients may send. `aliases`: those of them that surely mean the first of them; any
        other is asked for as an adapter. Raises TooManyHoldersError, and ValueError for an endpoint that is
        followed already.
        """
        if endpoint in self._views:
            raise ValueError(f"{endpoint} is followed already: unfollow it first")
        holder = self.holders.add(endpoint, tuple(models), ranks, frozenset(aliases))
        views = [PublisherView(self.index, slot, self._keys, models[0], self._media) for slot in holder.slots]
        self._views[endpoint] = views
        return views

    def unfollow(self, endpoint: str) -> None:
        """The endpoint is gone; its views must not be used any more."""
        for view in self._views.pop(endpoint, ()):
            # What is expected goes first: else it would hear of each block that is lost.
            self._routed.forget(view.slot)
            view.end()
            self._passed_over.add(view.counts)
        self.holders.remove(endpoint)

    def forget_routed(self, endpoint: str) -> None:
        """Nothing is expected at this endpoint: it restarted."""
        holder = self.holders.get(endpoint)
        if holder is not None:
            self._routed.forget(holder.slots[0])

    def followed(self) -> Followed:
        """Which endpoint each slot stands for; its revision grows with each `follow` and `unfollow`."""
        return self.holders.followed()

    def match(self, asker: Hashable, query: PrefixQuery) -> PrefixMatches:
        """Answers a question, and keeps it for `routed`. `asker`: the connection."""
        self._asked.keep(asker, query)
        found = self._look_up(query)
        return PrefixMatches(
            query.number, self.holders.revision, found.slots, found.on_device, found.in_any_tier, found.expected
        )

    def routed(self, asker: Hashable, told: PrefixRouted) -> bool:
        """A prompt was sent somewhere, or somewhere else after it failed there, or was sent there in vain. False:
        nothing is expected because of it, as the question or the endpoint is not known (any more), or the endpoint has
        several ranks, of which nobody knows which one has got it."""
        query = self._asked.find(asker, told.number)
        views = self._views.get(told.endpoint, ())
        if query is None or len(views) != 1:
            return False
        size = views[0].block_size or self._sizes(views[0].model)[0]
        prompt = write_out(self._media, views[0].model, query.tokens, query.media)
        adapter = dict(self.holders.asked_as(query.model)).get(views[0].model, "")
        beginnings = self._beginnings(query, views[0].model, adapter, prompt, size)
        change = self._routed.take_back if told.in_vain else self._routed.add
        change(views[0].slot, beginnings.until(beginnings.count), size)
        return True

    def forget_asker(self, asker: Hashable) -> None:
        """The connection was closed."""
        self._asked.forget(asker)

    def explain(self, query: PrefixQuery) -> Explanation:
        """Every endpoint that serves the model, those that hold nothing too; for people, not for every request."""
        matches = self._look_up(query)
        places = {slot: place for place, slot in enumerate(np.frombuffer(matches.slots, "<u2").tolist())}
        asked_as = self.holders.asked_as(query.model)
        prompts = [write_out(self._media, model, query.tokens, query.media) for model, _ in asked_as]
        longest = max(prompts, key=lambda prompt: len(prompt.tokens), default=None)
        return Explanation(
            prompt_tokens=len(longest.tokens if longest else query.tokens) // 4,
            whole=longest is None or longest.whole,
            endpoints=[
                self._explain(holder, matches, places.get(holder.slots[0]))
                for holder in self.holders.all()
                if query.model in holder.models
            ],
        )

    def _explain(self, holder: Holder, matches: Matches, place: int | None) -> EndpointMatch:
        views = self._views[holder.endpoint]
        columns = (matches.on_device, matches.in_any_tier, matches.expected)
        on_device, in_any_tier, expected = (
            0 if place is None else int(np.frombuffer(column, "<u4")[place]) for column in columns
        )
        return EndpointMatch(
            endpoint=holder.endpoint,
            on_device=on_device,
            in_any_tier=in_any_tier,
            expected=expected,
            block_size=max(view.block_size for view in views),
            blocks=[len(view) for view in views],
        )

    def size(self) -> ConductorSize:
        """How much is kept now."""
        views = [view for views in self._views.values() for view in views]
        return ConductorSize(
            entries=self.index.entries,
            blocks=len(self.index.blocks),
            memory_bytes=self.index.memory_bytes
            + self._media.memory_bytes
            + self._routed.memory_bytes
            + self._asked.memory_bytes
            + sum(view.memory_bytes for view in views),
            refused=self.index.refused,
            holder_sets=len(self.index.sets),
            media_items=len(self._media),
            routed_prompts=len(self._routed),
        )

    def passed_over(self) -> PassedOver:
        """All that was, of publishers that are gone, too."""
        total = PassedOver()
        for counts in (self._passed_over, *(view.counts for views in self._views.values() for view in views)):
            total.add(counts)
        return total

    def _look_up(self, query: PrefixQuery) -> Matches:
        prompts: list[Beginnings] = []
        for model, adapter in self.holders.asked_as(query.model):
            prompt = write_out(self._media, model, query.tokens, query.media)
            for size in self._sizes(model):
                prompts.append(self._beginnings(query, model, adapter, prompt, size))  # noqa: PERF401
        return self._matching.match(prompts)

    def _beginnings(self, query: PrefixQuery, model: str, adapter: str, prompt: WrittenPrompt, size: int) -> Beginnings:
        root = self._keys.root(model, query.adapter or adapter, query.salt, size)
        return Beginnings(self._keys, root, prompt, size)

    def _sizes(self, model: str) -> tuple[int, ...]:
        return self.index.sizes.of(model) or (_SIZE_BEFORE_EVENTS,)
