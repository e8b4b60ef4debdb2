"""What is found out about a request before its endpoints are chosen, where `scheduler_type` asks for more than load."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from pymotor.coordinator.affinity.choices import AffinityChoice, Choice
from pymotor.coordinator.affinity.conductor_client import Asked, ConductorClient
from pymotor.coordinator.affinity.counted_lengths import CountedLengths
from pymotor.coordinator.affinity.engine_tokens import EngineTokens
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.affinity.keyed_choice import KeyedChoice
from pymotor.coordinator.affinity.matches import Expected
from pymotor.coordinator.affinity.recent_choices import RecentChoices
from pymotor.coordinator.affinity.text_prefixes import TextMatches, TextPrefixes
from pymotor.coordinator.affinity.told import Told, ToldConductor, ToldTexts
from pymotor.coordinator.api.errors import UNREADABLE, ApiError
from pymotor.coordinator.api.media import MediaItem
from pymotor.coordinator.api.request_view import Fields, RequestView
from pymotor.coordinator.api.surface import CHAT
from pymotor.coordinator.prompts.prompt import Prompt
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.coordinator.prompts.text_tokens import TOKEN_BYTES
from pymotor.coordinator.routing import Routes
from pymotor.coordinator.scheduling.key_choice import KeyChoice
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.prefix_hash import prefix_key, session_key
from pymotor.coordinator.scheduling.target import Group, Policy
from pymotor.fleet import Role
from pymotor.fleet.prefix_queries import MOST_MEDIA, MOST_TOKENS

_IDENTIFIERS = 16384
"""Media items whose identifiers are remembered."""
_COMPUTE_PROMPTS = frozenset((Role.PREFILL, Role.UNION))
_ALL_ROLES = frozenset(Role)
_ABOUT_LOGPROBS = frozenset(("prompt_logprobs", "echo"))
"""Fields without which an engine uses what it holds."""


class Placement(Protocol):
    """Makes each request's own policy."""

    recent: RecentChoices
    """The newest of them."""

    async def choice(
        self, view: RequestView, headers: Mapping[bytes, bytes], routes: Callable[[], Routes], *, kept: bool = True
    ) -> Choice | None:
        """The policy of a request with these headers, names in lower case; None: the worker's own. `kept`: among the
        recent ones; a request that is not sent is not."""

    async def look_again(self, choice: Choice, view: RequestView, routes: Callable[[], Routes]) -> None:
        """Find out anew what `choice`, which was made here for this request, goes by, before its first leg; where that
        fails what was found at first stays."""

    def identified(self, item: MediaItem, identifier: str) -> None:
        """Engines know the item by this name."""

    def fleet_changed(self, serving: frozenset[str]) -> None:
        """Only the endpoints with these ids get new legs from now on."""

    async def close(self) -> None:
        """Let go of what was opened."""


class AffinityPlacement:
    """By what endpoints hold of the prompt's beginning: as the KV Conductor tells where it can be asked with tokens;
    without tokens, without a conductor, or where it does not answer, by where this worker sent texts that begin alike.
    Where nothing is known, load decides."""

    def __init__(
        self,
        rules: AffinityRules,
        ledger: Ledger,
        base: Policy,
        instruments: AffinityInstruments,
        *,
        tokens: PromptTokens | None,
        engine_tokens: EngineTokens,
        conductor: ConductorClient | None,
    ) -> None:
        """`base` decides where nothing is known; the client of the conductor is closed with this."""
        self._rules = rules
        self._ledger = ledger
        self._base = base
        self._instruments = instruments
        self._tokens = tokens
        self._engine_tokens = engine_tokens
        self._conductor = conductor
        self._texts = TextPrefixes()
        self._lengths = CountedLengths()
        self.recent = RecentChoices()
        self._identifiers: OrderedDict[tuple[str, int], str] = OrderedDict()

    async def choice(
        self,
        view: RequestView,
        headers: Mapping[bytes, bytes],
        routes: Callable[[], Routes],
        *,
        kept: bool = True,
    ) -> Choice | None:
        """See `Placement`."""
        if not view.surface.staged or view.previous:
            return None
        if view.prompts:
            if kept:
                self._instruments.asked("several")
                self.recent.keep(several_by_load(view, self._ledger, self._base), headers)
            return None
        conductor = self._conductor
        # Where engines would tell the tokens nobody needs them while the conductor cannot be asked.
        closed = conductor is not None and self._tokens is None and not conductor.open
        # Where no engine tells what it holds the conductor would answer that nobody holds anything.
        unfollowed = conductor is not None and _follows_none(conductor, routes)
        # Where nobody reads prompts there is nothing to wait for.
        asks = conductor is not None and not closed and not unfollowed
        prompt = await self._prompt(view, routes, asks) if asks or self._tokens is not None else None
        if unfollowed:
            made = self._by_text(view, routes, "unfollowed")
        elif prompt is None or conductor is None:
            made = self._by_text(view, routes, "closed" if closed else "text")
        else:
            asked = await self._ask(conductor, view, prompt)
            if asked.matches is None:
                made = self._by_text(view, routes, asked.outcome)
            else:
                told = ToldConductor(conductor, asked.matches.number)
                matches = asked.matches.without_tokens() if _computes_all(view, routes) else asked.matches
                made = self._made(view, matches, asked.outcome, told)
            made.prompt = prompt
            # How many tokens a media item becomes is a guess.
            made.lengths = None if view.media else self._lengths
        if kept:
            self._instruments.asked(made.outcome)
            self.recent.keep(made, headers)
        return made

    async def look_again(self, choice: Choice, view: RequestView, routes: Callable[[], Routes]) -> None:
        """See `Placement`."""
        if not isinstance(choice, AffinityChoice) or _computes_all(view, routes):
            return
        conductor, prompt = self._conductor, choice.prompt
        if conductor is not None and prompt is not None:
            asked = await self._ask(conductor, view, prompt)
            if asked.matches is not None:
                choice.looked_again(asked.matches, asked.outcome, ToldConductor(conductor, asked.matches.number))
                return
        if choice.outcome != "answered":
            trail = self._texts.trail(view)
            choice.looked_again(self._texts.matches(trail), choice.outcome, ToldTexts(self._texts, trail))

    def identified(self, item: MediaItem, identifier: str) -> None:
        """See `Placement`."""
        known = self._identifiers
        known[item.kind, item.key] = identifier
        known.move_to_end((item.kind, item.key))
        if len(known) > _IDENTIFIERS:
            known.popitem(last=False)

    def fleet_changed(self, serving: frozenset[str]) -> None:
        """See `Placement`."""
        self._texts.fleet_changed(serving)

    async def close(self) -> None:
        """See `Placement`."""
        if self._conductor is not None:
            await self._conductor.close()

    async def _prompt(self, view: RequestView, routes: Callable[[], Routes], asks: bool) -> Prompt | None:
        """The request's prompt, with its length in the view; `asks`: the conductor is to be asked about it."""
        if self._tokens is None:
            return await self._engines_prompt(view, routes)
        prompt = await self._tokens.read(view)
        if prompt is None and asks and view.surface is CHAT and self._conductor is not None and self._conductor.open:
            prompt = await self._engines_prompt(view, routes)
        if prompt is None:
            await self._tokens.count(view)
        return prompt

    async def _engines_prompt(self, view: RequestView, routes: Callable[[], Routes]) -> Prompt | None:
        targets = [target for group in _that_compute(routes) for target in group.targets]
        return await self._engine_tokens.read(view, targets)

    async def _ask(self, conductor: ConductorClient, view: RequestView, prompt: Prompt) -> Asked:
        # An engine computes the last token whatever it holds: a block that ends with it is of no use to this request.
        length = min(prompt.length - 1, MOST_TOKENS)
        media: list[tuple[int, str]] = []
        for item, place in zip(view.media, prompt.places, strict=True):
            if place >= length:
                break
            identifier = self._identifiers.get((item.kind, item.key))
            if identifier is None or len(media) == MOST_MEDIA:
                # From here on nobody was told of it by a name that is known here, or a question has no room for it.
                length = place
                break
            media.append((place, identifier))
        tokens = memoryview(prompt.tokens)[: length * TOKEN_BYTES]
        return await conductor.ask(view.model, tokens, media, salt=_salt(view))

    def _by_text(self, view: RequestView, routes: Callable[[], Routes], outcome: str) -> AffinityChoice:
        trail = self._texts.trail(view)
        matches = TextMatches({}) if _computes_all(view, routes) else self._texts.matches(trail)
        return self._made(view, matches, outcome, ToldTexts(self._texts, trail))

    def _made(self, view: RequestView, matches: Expected, outcome: str, told: Told) -> AffinityChoice:
        return AffinityChoice(
            self._rules,
            self._ledger,
            self._base,
            self._instruments,
            prompt_tokens=view.prompt_tokens,
            matches=matches,
            outcome=outcome,
            told=told,
        )


class KeyedPlacement:
    """By a key of each request: how its prompt begins, or the session that a header names."""

    def __init__(self, ledger: Ledger, base: Policy, tokens: PromptTokens | None, session_header: bytes = b"") -> None:
        """`base` decides where there is no key. `session_header`, in lower case: by session; empty: by prefix."""
        self._choice = KeyChoice(ledger)
        self._ledger = ledger
        self._base = base
        self._tokens = tokens
        self._header = session_header
        self.recent = RecentChoices()

    async def choice(
        self,
        view: RequestView,
        headers: Mapping[bytes, bytes],
        routes: Callable[[], Routes],  # noqa: ARG002  others look at them
        *,
        kept: bool = True,
    ) -> Choice | None:
        """See `Placement`."""
        if self._tokens is not None:
            await self._tokens.count(view)
        if not view.surface.staged or view.previous:
            return None
        session = headers.get(self._header) if self._header else None
        if self._header and not session:
            return None
        made = KeyedChoice(
            self._choice,
            self._ledger,
            self._base,
            key=session_key(session) if session else prefix_key(view),
            roles=_ALL_ROLES if session else _COMPUTE_PROMPTS,
            prompt_tokens=view.prompt_tokens,
            outcome="session" if session else "prefix",
        )
        made.prompts = len(view.prompts)
        if kept:
            self.recent.keep(made, headers)
        return made

    async def look_again(self, choice: Choice, view: RequestView, routes: Callable[[], Routes]) -> None:
        """See `Placement`. A key stays what it is."""

    def identified(self, item: MediaItem, identifier: str) -> None:
        """See `Placement`."""

    def fleet_changed(self, serving: frozenset[str]) -> None:
        """See `Placement`."""

    async def close(self) -> None:
        """See `Placement`."""


def several_by_load(view: RequestView, ledger: Ledger, base: Policy) -> Choice:
    """What stands for a request of several prompts among those that are explained: `base` decides for each."""
    choice = Choice(ledger, base, view.prompt_tokens, "several")
    choice.prompts = len(view.prompts)
    return choice


def _that_compute(routes: Callable[[], Routes]) -> list[Group]:
    """The endpoints that can compute a prompt, and so tell its tokens."""
    try:
        found = routes()
    except ApiError:
        return []
    groups = [pair.prefills for pair in found.pairs] + [one.targets for one in (*found.singles, *found.leftovers)]
    return [group for group in groups if group.targets]


def _follows_none(conductor: ConductorClient, routes: Callable[[], Routes]) -> bool:
    """Whether the conductor, which can be asked, follows none of those that there are."""
    holders = conductor.holders
    if holders is None:
        return False
    groups = _that_compute(routes)
    return bool(groups) and not any(holders.has_any_of(group) for group in groups)


def _computes_all(view: RequestView, routes: Callable[[], Routes]) -> bool:
    """Whether who computes the prompt reads nothing of its prefix cache for it: an engine that is to tell
    probabilities of all the prompt's tokens. Prefill is not asked for them where its leg goes without these fields."""
    fields = view.fields
    if _ABOUT_LOGPROBS.isdisjoint(fields):
        return False
    asked = _stated(fields, "prompt_logprobs") is not None
    # With `echo` those asked for are the prompt's too; of a chat engines take them as asked for.
    if not asked and _stated(fields, "echo"):
        asked = view.surface is CHAT or _stated(fields, "logprobs") is not None
    return asked and not (view.surface.prefill_without >= _ABOUT_LOGPROBS and _only_by_pairs(routes))


def _only_by_pairs(routes: Callable[[], Routes]) -> bool:
    """Whether prefill computes the prompt wherever a request goes."""
    try:
        found = routes()
    except ApiError:
        return False
    return bool(found.pairs) and not found.singles


def _stated(fields: Fields, name: str) -> object:
    raw = fields.get(name)
    try:
        return msgspec.json.decode(raw) if raw is not None else None
    except UNREADABLE:
        return None


def _salt(view: RequestView) -> str:
    raw = view.fields.get("cache_salt")
    try:
        return msgspec.json.decode(raw, type=str | None) or "" if raw is not None else ""
    except UNREADABLE:
        return ""
