"""How the endpoints of one request are chosen where more than load decides; one object lives as long as its request.

Each is a `Policy`, asked for each leg; what was found out before the first leg serves all tries. What was decided stays
with it, as references only, for `explain`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pymotor.coordinator.affinity.cached_tokens import PromptUsage, prompt_usage, prompt_usage_in_events
from pymotor.coordinator.affinity.counted_lengths import CountedLengths
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.affinity.matches import Expected
from pymotor.coordinator.affinity.told import Told
from pymotor.coordinator.prompts.prompt import Prompt
from pymotor.coordinator.scheduling.kv_affinity import (
    AffinityRules,
    choose_among_holders,
    choose_by_affinity,
    highest_load,
    prefill_cost,
)
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.loads import Loads, highest_of, least_loaded
from pymotor.coordinator.scheduling.target import Group, Policy, Target
from pymotor.fleet import Role

_HISTORY = 8
"""Decisions of one request that are kept: a few legs, a few tries."""
_NOBODY: frozenset[str] = frozenset()


class Decision(msgspec.Struct, frozen=True, eq=False):
    """One endpoint chosen for one leg. A `Struct`, since making one has to cost little."""

    group: Group
    avoid: frozenset[str]
    loads: Loads
    """Of the group's endpoints at that moment, in tenths of a token."""
    chosen: Target
    by: str
    """Which rule decided: `affinity`, `load`, `locality` or `key`."""
    held: int | None = None
    """Tokens of the prompt that the chosen one was expected to hold; None where nobody knew."""
    turn: int = 0
    """Whose turn it was among equals, where what they hold decided."""
    barred: frozenset[str] = _NOBODY
    """Endpoints that were avoided because their circuits were open."""

    def among(self, group: Group, barred: frozenset[str], ledger: Ledger) -> Decision:
        """The same decision about all of `group`, if it was made about what is left of it without those `barred`."""
        if self.group is group:
            return self
        avoid, loads = self.avoid | barred, group.loads(ledger)
        return msgspec.structs.replace(self, group=group, avoid=avoid, loads=loads, barred=barred)


class Choice:
    """A request's own policy."""

    __slots__ = (
        "_base",
        "_ledger",
        "decisions",
        "leg_ids",
        "outcome",
        "placed_at",
        "prompt_tokens",
        "prompts",
        "request_id",
    )

    def __init__(self, ledger: Ledger, base: Policy, prompt_tokens: int, outcome: str) -> None:
        """`base` decides where nothing is known. `outcome` says how what is known came about, or why nothing is."""
        self._ledger = ledger
        self._base = base
        self.prompt_tokens = prompt_tokens
        self.outcome = outcome
        self.prompts = 0
        """How many the request has, where they are several."""
        self.request_id = b""
        """What the client calls the request; empty: nothing."""
        self.placed_at: float | None = None
        """When it came to that, in seconds since 1970, which all workers count alike; None: it is not sent."""
        self.leg_ids: list[bytes] = []
        """Under which engines got it."""
        self.decisions: list[Decision] = []

    def choose(self, group: Group, avoid: frozenset[str]) -> Target | None:
        """See `Policy`."""
        decision = self._decide(group, avoid)
        if decision is None:
            return None
        decisions = self.decisions
        if len(decisions) >= _HISTORY:
            del decisions[0]
        decisions.append(decision)
        self.decided(decision)
        return decision.chosen

    def look(self, group: Group, avoid: frozenset[str]) -> Decision | None:
        """Whom `choose` would choose, and why; no leg begins, and whose turn it is stays as it was."""
        turn = group.cursor
        decision = self._decide(group, avoid)
        group.cursor = turn
        return decision

    @property
    def may_look_again(self) -> bool:
        """Whether more can be found out about the request by now than was at first."""
        return False

    def decided(self, decision: Decision) -> None:
        """A leg goes there."""

    def begins_whole(self) -> None:
        """The next leg computes the prompt itself: wherever prefill was, its KV cache is of no use there."""

    def answered(self, target: Target) -> None:
        """A leg there has brought what it was sent for, or begins to."""

    def end(self) -> None:
        """The request is over, whatever became of it."""

    def work(self, target: Target) -> int:  # noqa: ARG002  others know more
        """Tokens of the prompt that are still to be computed at `target`, as far as is known."""
        return self.prompt_tokens

    def replied(self, target: Target, body: bytes) -> None:
        """A whole reply of an endpoint, which may say what it had of the prompt."""

    def compares(self, target: Target) -> bool:  # noqa: ARG002  others know more
        """Whether what an endpoint had of the prompt is compared with what was expected there."""
        return False

    def streamed(self, target: Target, events: bytes) -> None:
        """Events of an endpoint's stream that may say the same."""

    def best_group(
        self,
        groups: Sequence[Group],  # noqa: ARG002  others know more
        avoid: frozenset[str],  # noqa: ARG002  likewise
        turn: int = 0,  # noqa: ARG002  likewise
    ) -> int | None:
        """The index of the group that has the best endpoint of all of them, of equals the one whose `turn` it is; None:
        load decides which."""
        return None

    def _decide(self, group: Group, avoid: frozenset[str]) -> Decision | None:
        """May move the turn of equals on."""
        return self._by_load(group, avoid, group.loads(self._ledger))

    def _by_load(self, group: Group, avoid: frozenset[str], loads: Loads) -> Decision | None:
        target = self._base.choose(group, avoid)
        return None if target is None else Decision(group, avoid, loads, target, "load")


class AffinityChoice(Choice):
    """By what the endpoints hold of the prompt, beside their load. Decode goes by room and, where prefill is known, to
    its host first."""

    __slots__ = ("_instruments", "_prefill_host", "_told", "_unanswered", "lengths", "matches", "prompt", "rules")

    def __init__(
        self,
        rules: AffinityRules,
        ledger: Ledger,
        base: Policy,
        instruments: AffinityInstruments,
        *,
        prompt_tokens: int,
        matches: Expected | None,
        outcome: str,
        told: Told | None,
    ) -> None:
        """`told` learns where the prompt goes."""
        super().__init__(ledger, base, prompt_tokens, outcome)
        self._instruments = instruments
        self._prefill_host = ""
        self._told = told
        self._unanswered: list[str] = []
        """Endpoints that were told of and have not answered."""
        self.rules = rules
        self.matches = matches
        self.prompt: Prompt | None = None
        """What the conductor was asked about, until a leg begins; None: nothing."""
        self.lengths: CountedLengths | None = None
        """Where the prompt's length is compared with what its engine says; None: it was not counted exactly."""

    @property
    def may_look_again(self) -> bool:
        """See `Choice`. What the first leg was chosen by serves all tries."""
        return not self.decisions

    def looked_again(self, matches: Expected, outcome: str, told: Told) -> None:
        """More was found out about the request, which has not begun; arguments as at first."""
        self.matches = matches
        self.outcome = outcome
        self._told = told

    def _decide(self, group: Group, avoid: frozenset[str]) -> Decision | None:
        loads = group.loads(self._ledger)
        if self._prefill_host and group.targets[0].instance.role is Role.DECODE:
            return self._near_prefill(group, avoid, loads)
        if self.matches is None:
            return self._by_load(group, avoid, loads)
        return self._by_match(group, avoid, loads, self.matches)

    def decided(self, decision: Decision) -> None:
        """See `Choice`."""
        self.prompt = None
        target = decision.chosen
        if target.instance.role is Role.PREFILL:
            self._prefill_host = target.pool.host
        if decision.held is not None:
            self._instruments.placed(self.prompt_tokens, decision.held)
            if self._told is not None:
                self._told.routed(target.endpoint_id)
                self._unanswered.append(target.endpoint_id)

    def begins_whole(self) -> None:
        """See `Choice`."""
        self._prefill_host = ""

    def answered(self, target: Target) -> None:
        """See `Choice`."""
        if target.endpoint_id in self._unanswered:
            self._unanswered.remove(target.endpoint_id)

    def end(self) -> None:
        """See `Choice`."""
        self.prompt = None
        if self._told is not None:
            for endpoint_id in self._unanswered:
                self._told.in_vain(endpoint_id)
        self._unanswered.clear()

    def prefilled_at(self, target: Target) -> None:
        """Decode is to be near it, if prefill is there."""
        if target.instance.role is Role.PREFILL:
            self._prefill_host = target.pool.host

    def work(self, target: Target) -> int:
        """See `Choice`."""
        held = self._expected_at(target)
        if held is None:
            return self.prompt_tokens
        return max(1, int(prefill_cost(self.rules, self.prompt_tokens, held)))

    def replied(self, target: Target, body: bytes) -> None:
        """See `Choice`."""
        expected = self._expected_at(target)
        if expected is not None:
            self._note(expected, prompt_usage(body))

    def compares(self, target: Target) -> bool:
        """See `Choice`."""
        return self._expected_at(target) is not None

    def streamed(self, target: Target, events: bytes) -> None:
        """See `Choice`."""
        expected = self._expected_at(target)
        if expected is not None:
            self._note(expected, prompt_usage_in_events(events))

    def _note(self, expected: int, usage: PromptUsage | None) -> None:
        if usage is None:
            return
        self._instruments.told(expected, usage.cached)
        if self.lengths is not None and usage.length is not None:
            self.lengths.compare(self.prompt_tokens, usage.length)

    def best_group(self, groups: Sequence[Group], avoid: frozenset[str], turn: int = 0) -> int | None:
        """See `Choice`. The rules are applied to the endpoints of all groups together, the bound on load too."""
        if self.matches is None:
            return None
        of: list[int] = []
        held: list[int] = []
        loads: list[int] = []
        for number, group in enumerate(groups):
            expected, current = self.matches.expected(group), group.loads(self._ledger)
            for index, target in enumerate(group.targets):
                if target.endpoint_id not in avoid:
                    of.append(number)
                    held.append(int(expected[index]))
                    loads.append(int(current[index]))
        return of[choose_by_affinity(self.rules, self.prompt_tokens, held, loads, turn)] if of else None

    def _expected_at(self, target: Target) -> int | None:
        decisions = self.decisions
        if decisions and decisions[-1].chosen is target:
            return decisions[-1].held
        for decision in reversed(decisions):
            if decision.chosen is target:
                return decision.held
        return None

    def _by_match(self, group: Group, avoid: frozenset[str], loads: Loads, matches: Expected) -> Decision | None:
        allowed = _allowed(group, avoid)
        turn = group.cursor
        if allowed is None:
            places, tokens = matches.holding(group)
            index, held = choose_among_holders(self.rules, self.prompt_tokens, places, tokens, loads, turn)
        elif not allowed:
            return None
        else:
            expected = matches.expected(group)[allowed]
            best = choose_by_affinity(self.rules, self.prompt_tokens, expected, _those(loads, allowed), turn)
            index, held = allowed[best], min(int(expected[best]), self.prompt_tokens)
        group.cursor = index + 1
        return Decision(group, avoid, loads, group.targets[index], "affinity", held, turn)

    def _near_prefill(self, group: Group, avoid: frozenset[str], loads: Loads) -> Decision | None:
        """The least loaded on prefill's host, if it is within the bound; else the least loaded."""
        allowed = _allowed(group, avoid)
        places = group.places_on(self._prefill_host)
        if allowed is None:
            count, eligible = len(loads), loads
        elif not allowed:
            return None
        else:
            count, eligible = len(allowed), _those(loads, allowed)
            places = [place for place in places if group.endpoint_ids[place] not in avoid]
        if not places:
            return self._by_load(group, avoid, loads)
        highest = highest_load(self.rules, self.prompt_tokens, eligible)
        near = loads if len(places) == len(loads) else _those(loads, places)
        nearest = least_loaded(near, 0)
        if near[nearest] > highest or (len(places) == count and highest_of(near) <= highest):
            return self._by_load(group, avoid, loads)
        return Decision(group, avoid, loads, group.targets[places[nearest]], "locality")


def _those(loads: Loads, places: Sequence[int]) -> Loads:
    """The loads of the endpoints at these places."""
    return [loads[place] for place in places] if isinstance(loads, list) else loads[places]


def _allowed(group: Group, avoid: frozenset[str]) -> list[int] | None:
    """The indices that are not to be avoided; None: all."""
    if not avoid:
        return None
    return [index for index, endpoint_id in enumerate(group.endpoint_ids) if endpoint_id not in avoid]
