"""A request's own policy: what it chooses by, what it tells, what it charges."""

from __future__ import annotations

import numpy as np
import pytest
from ledgers import endpoints_of, group_of

from pymotor.coordinator.affinity.choices import AffinityChoice
from pymotor.coordinator.affinity.explanation import explain
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.affinity.keyed_choice import KeyedChoice
from pymotor.coordinator.affinity.matches import Holders, Matches
from pymotor.coordinator.scheduling.key_choice import KeyChoice
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.prefix_hash import session_key
from pymotor.coordinator.scheduling.round_robin import RoundRobin
from pymotor.coordinator.scheduling.target import Reservation, Target
from pymotor.fleet import Role
from pymotor.telemetry.metrics import Registry

NOBODY: frozenset[str] = frozenset()
PROMPT = 1000
UNIFIED = AffinityRules()


class Remembering:
    """Is told where the prompt goes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def routed(self, endpoint_id: str) -> None:
        """See `Told`."""
        self.told.append(endpoint_id)


def matches_of(targets: list[Target], *held: int) -> Matches:
    """What each of them holds, and another endpoint that this Coordinator does not know."""
    holders = Holders(["elsewhere/0", *(target.endpoint_id for target in targets)])
    slots = np.arange(len(held) + 1, dtype=np.uint16)
    tokens = np.array([5000, *held], dtype=np.uint32)
    return Matches(holders, 1, slots, tokens, tokens, tokens)


def choice_of(
    ledger: Ledger, matches: Matches | None, told: Remembering | None = None, rules: AffinityRules = UNIFIED
) -> AffinityChoice:
    """For a prompt of 1000 tokens."""
    return AffinityChoice(
        rules,
        ledger,
        LoadBalance(ledger),
        AffinityInstruments(Registry()),
        prompt_tokens=PROMPT,
        matches=matches,
        outcome="answered",
        told=told,
    )


@pytest.mark.parametrize("count", [3, 30])
def test_the_longest_match_is_chosen_told_and_charged_with_the_rest(count: int) -> None:
    with endpoints_of(count) as (ledger, targets):
        told = Remembering()
        choice = choice_of(ledger, matches_of(targets, 100, 900, *[0] * (count - 2)), told)
        chosen = choice.choose(group_of(targets), NOBODY)
        assert chosen is targets[1]
        assert told.told == ["union-1/0"]
        assert choice.work(chosen) == 100
        assert choice.work(targets[0]) == PROMPT, "it was not chosen by what it holds"


def test_a_failed_endpoint_is_left_out_and_the_next_is_told() -> None:
    with endpoints_of(3) as (ledger, targets):
        told = Remembering()
        choice = choice_of(ledger, matches_of(targets, 500, 900, 0), told)
        group = group_of(targets)
        choice.choose(group, NOBODY)
        assert choice.choose(group, frozenset(("union-1/0",))) is targets[0]
        assert told.told == ["union-1/0", "union-0/0"]
        assert choice.choose(group, frozenset(target.endpoint_id for target in targets)) is None


def test_endpoints_that_nobody_answers_for_hold_nothing() -> None:
    with endpoints_of(3) as (ledger, targets):
        choice = choice_of(ledger, matches_of(targets[:2], 0, 10))
        assert choice.choose(group_of(targets), NOBODY) is targets[1]


@pytest.mark.parametrize("count", [3, 30])
def test_holders_outside_the_group_are_passed_over(count: int) -> None:
    with endpoints_of(count) as (_, targets):
        matches = matches_of(targets, *range(10, 10 + count))
        own = targets[1::2]
        places, held = matches.holding(group_of(own))
        by_id = {own[place].endpoint_id: int(tokens) for place, tokens in zip(places, held, strict=True)}
        assert by_id == {target.endpoint_id: 10 + place for place, target in enumerate(targets) if place % 2}
        assert matches.expected(group_of(own)).tolist() == list(by_id.values())


def test_where_nothing_is_known_load_decides() -> None:
    with endpoints_of(3) as (ledger, targets):
        ledger.begin(0, 10)
        ledger.begin(1, 20)
        told = Remembering()
        choice = choice_of(ledger, None, told)
        assert choice.choose(group_of(targets), NOBODY) is targets[2]
        assert not told.told
        assert choice.work(targets[2]) == PROMPT


def test_looking_decides_nothing() -> None:
    with endpoints_of(2) as (ledger, targets):
        told = Remembering()
        choice = choice_of(ledger, matches_of(targets, 0, 10), told)
        found = choice.look(group_of(targets), NOBODY)
        assert found is not None
        assert found.chosen is targets[1]
        assert not told.told
        assert not choice.decisions


@pytest.mark.parametrize("by", ["affinity", "load", "turn"])
def test_looking_takes_nobodys_turn(by: str) -> None:
    with endpoints_of(3) as (ledger, targets):
        choice = choice_of(ledger, matches_of(targets, 0, 0, 0) if by == "affinity" else None)
        if by == "turn":
            choice._base = RoundRobin()
        group = group_of(targets)
        for target in targets:
            looks = [choice.look(group, NOBODY) for _ in range(4)]
            assert [look.chosen for look in looks if look is not None] == [target] * 4
            assert choice.choose(group, NOBODY) is target


def test_decode_is_near_prefill_unless_that_host_has_too_much() -> None:
    hosts = ("10.0.0.1", "10.0.0.2")
    with endpoints_of(2, Role.PREFILL, hosts) as (ledger, prefills), endpoints_of(4, Role.DECODE, hosts) as decoding:
        decode_ledger, decodes = decoding
        told = Remembering()
        choice = choice_of(ledger, matches_of(prefills, 0, 900), told)
        assert choice.choose(group_of(prefills), NOBODY) is prefills[1]
        choice._ledger, choice._base = decode_ledger, LoadBalance(decode_ledger)
        group = group_of(decodes)
        decode_ledger.begin(1, 500)
        assert choice.choose(group, NOBODY) is decodes[3], "the less loaded of its host"
        decode_ledger.begin(3, 1_000_000)
        assert choice.choose(group, NOBODY) is decodes[1]
        decode_ledger.begin(1, 1_000_000)
        chosen = choice.choose(group, NOBODY)
        assert chosen in (decodes[0], decodes[2])
        legs = explain(choice).legs
        assert [leg.by for leg in legs] == ["affinity", "locality", "locality", "load"]
        elsewhere = "not on prefill's host"
        above = "its load is above the bound"
        assert [one.excluded for one in legs[1].endpoints] == [elsewhere, "", elsewhere, ""]
        assert [one.excluded for one in legs[2].endpoints] == [elsewhere, "", elsewhere, above]
        assert told.told == ["prefill-1/0"], "decode computes no prompt"


def test_the_explanation_has_all_figures() -> None:
    with endpoints_of(3) as (ledger, targets):
        ledger.begin(0, 100_000)
        choice = choice_of(ledger, matches_of(targets, 990, 800, 0))
        choice.choose(group_of(targets), frozenset(("union-2/0",)))
        (leg,) = explain(choice).legs
        loaded, chosen, avoided = leg.endpoints
        assert (chosen.chosen, chosen.match_device, chosen.prefill_cost, chosen.score) == (True, 800, 200, 200)
        assert leg.highest_load == 1.25 * 10_000 / 2 + PROMPT
        assert (loaded.load, loaded.excluded) == (10_000, "its load is above the bound")
        assert avoided.excluded.startswith("avoided")


def test_who_is_outside_of_the_gate_is_told_so() -> None:
    with endpoints_of(5) as (ledger, targets):
        for row, load in enumerate((100_000, 7_000, 0, 10, 10)):
            ledger.begin(row, load)
        rules = AffinityRules(mode="load_gated")
        choice = choice_of(ledger, matches_of(targets, 990, 800, 0, 0, 0), rules=rules)
        choice.choose(group_of(targets), frozenset(("union-4/0",)))
        (leg,) = explain(choice).legs
        outside = "outside of the gate: not among the 2 least loaded"
        avoided = "avoided: it failed this request, is full or has no room"
        assert [one.excluded for one in leg.endpoints] == ["its load is above the bound", outside, "", "", avoided]
        assert [one.chosen for one in leg.endpoints] == [False, False, True, False, False]
        assert leg.note == "of the 2 least loaded the longest match, then the least load"


@pytest.mark.parametrize("count", [5, 40])
def test_of_equals_the_gate_has_those_whose_turn_it_was(count: int) -> None:
    with endpoints_of(count) as (ledger, targets):
        choice = choice_of(ledger, matches_of(targets, *[0] * count), rules=AffinityRules(mode="load_gated"))
        group = group_of(targets)
        for turn in range(count):
            choice.choose(group, NOBODY)
            endpoints = explain(choice).legs[-1].endpoints
            within = [place for place, one in enumerate(endpoints) if not one.excluded]
            assert within == sorted((turn, (turn + 1) % count))
            assert {one.excluded for one in endpoints} - {""} == {
                "outside of the gate: as loaded as the last in it, which holds more or had its turn"
            }


def test_why_a_key_did_not_get_the_first_of_its_order() -> None:
    with endpoints_of(4) as (ledger, targets):
        choice = KeyedChoice(
            KeyChoice(ledger),
            ledger,
            LoadBalance(ledger),
            key=session_key(b"one"),
            roles=frozenset((Role.UNION,)),
            prompt_tokens=PROMPT,
            outcome="session",
        )
        group = group_of(targets)
        first = choice.choose(group, NOBODY)
        assert first is not None
        ledger.begin(first.row, 20_000)
        second = choice.choose(group, NOBODY)
        assert second is not None
        third = choice.choose(group, frozenset((second.endpoint_id,)))
        legs = explain(choice).legs
        assert legs[1].highest_load == pytest.approx(1.25 * (2000 + PROMPT) / 4, abs=0.2)
        assert legs[2].highest_load == pytest.approx(1.25 * (2000 + PROMPT) / 3, abs=0.2), "of those allowed"
        order = [sorted(leg.endpoints, key=lambda one: one.place or 0) for leg in legs]
        assert [one.endpoint for one in order[1]][:2] == [first.endpoint_id, second.endpoint_id]
        assert [one.excluded for one in order[1]] == ["its load is above the bound", "", "", ""]
        assert order[2][1].excluded.startswith("avoided")
        assert third is not None
        assert [one.chosen for one in order[2]] == [False, False, True, False]
        assert third.endpoint_id == order[2][2].endpoint


def test_of_several_groups_the_one_with_the_best_endpoint_is_chosen() -> None:
    with endpoints_of(4) as (ledger, targets):
        groups = [group_of(targets[:2]), group_of(targets[2:])]
        choice = choice_of(ledger, matches_of(targets, 100, 0, 0, 900))
        assert choice.best_group(groups, NOBODY) == 1
        assert choice.best_group(groups, frozenset(("union-3/0",))) == 0
        assert choice.best_group(groups, frozenset(target.endpoint_id for target in targets)) is None
        # Holding 800 tokens more is not worth so much load.
        busy = Reservation.on(targets[3], 2000)
        assert choice.best_group(groups, NOBODY) == 0
        busy.end()
        assert choice_of(ledger, None).best_group(groups, NOBODY) is None


def test_a_key_decides_between_groups_of_its_roles_alone() -> None:
    with endpoints_of(4) as (ledger, targets):
        groups = [group_of(targets[:2]), group_of(targets[2:])]
        for role, decides in ((Role.UNION, True), (Role.PREFILL, False)):
            choice = KeyedChoice(
                KeyChoice(ledger),
                ledger,
                LoadBalance(ledger),
                key=session_key(b"one"),
                roles=frozenset((role,)),
                prompt_tokens=PROMPT,
                outcome="prefix",
            )
            assert (choice.best_group(groups, NOBODY) is not None) is decides


def test_decode_that_is_left_alone_goes_by_what_it_holds() -> None:
    """A try at prefill and decode has failed, and prefill is gone by now: where it was is of no matter any more."""
    hosts = ("10.0.0.1", "10.0.0.2")
    with endpoints_of(2, Role.PREFILL, hosts) as (ledger, prefills), endpoints_of(2, Role.DECODE, hosts) as decoding:
        decode_ledger, decodes = decoding
        choice = choice_of(ledger, matches_of([*prefills, *decodes], 100, 0, 0, 900))
        assert choice.choose(group_of(prefills), NOBODY) is prefills[0]
        choice._ledger, choice._base = decode_ledger, LoadBalance(decode_ledger)
        group = group_of(decodes)
        assert choice.choose(group, NOBODY) is decodes[0], "near prefill"
        choice.begins_whole()
        chosen = choice.choose(group, NOBODY)
        assert chosen is decodes[1]
        assert choice.decisions[-1].by == "affinity"
        assert choice.work(chosen) == PROMPT - 900
