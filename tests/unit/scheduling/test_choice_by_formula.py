"""What is chosen, compared with plain models of the formulas, for few endpoints and for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import shared_ledgers

from pymotor.coordinator.affinity.choices import AffinityChoice
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.affinity.matches import Expected, Holders, Matches
from pymotor.coordinator.affinity.text_prefixes import TextMatches
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.loads import FEW, highest_of, least_loaded
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import Endpoint, Instance, Role
from pymotor.telemetry.metrics import Registry

NOBODY: frozenset[str] = frozenset()
MOST = FEW + 8


class Drawn(NamedTuple):
    """An endpoint: its load in tenths of a token, what it holds, its host, whether it is to be avoided."""

    load: int
    held: int
    host: int
    avoided: bool


weights = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5])
rules_of_users = st.builds(
    AffinityRules,
    mode=st.sampled_from(["unified", "load_gated"]),
    load_weight=weights,
    overlap_credit=weights,
    prefill_load_scale=weights,
    load_gate_topn=st.integers(0, 5),
    load_bound=st.sampled_from([0.0, 0.5, 1.0, 1.25]),
)
endpoint = st.builds(
    Drawn, st.integers(0, 40).map(lambda load: 25 * load), st.sampled_from([0, 0, 0, 8, 60, 90]), st.integers(0, 2),
    st.booleans(),
)  # fmt: skip
few_or_many = st.one_of(st.integers(1, 6), st.integers(FEW - 1, MOST))
fleets = few_or_many.flatmap(lambda count: st.lists(endpoint, min_size=count, max_size=count))


@contextmanager
def groups_of(
    *fleets_drawn: tuple[Role, Sequence[Drawn]], scattered: bool = False
) -> Iterator[tuple[Ledger, list[Group]]]:
    """A group for each fleet over the ledger of one of two workers, which have charged about half of the load each;
    `scattered`: rows do not follow each other."""
    total = sum(len(drawn) for _, drawn in fleets_drawn)
    with shared_ledgers(2, total) as (mine, other, _):
        rows = iter([*range(0, total, 2), *range(1, total, 2)] if scattered else range(total))
        groups = []
        for role, drawn in fleets_drawn:
            targets = []
            for number, one in enumerate(drawn):
                row = next(rows)
                mine.begin(row, one.load // 2)
                other.begin(row, one.load - one.load // 2)
                name = f"{role.value}-{number}"
                instance = Instance(name=name, role=role, models=("m",), engine="sim")
                place = Endpoint(id=f"{name}/0", url=f"http://10.0.0.{one.host}:1")
                targets.append(Target(place, instance, mine, row, 1, SharedState()))
            groups.append(Group(targets))
        yield mine, groups


def expected_of(group: Group, drawn: Sequence[Drawn], told: bool) -> Expected:
    """What the conductor would tell of the endpoints, or texts."""
    held = [(target.endpoint_id, one.held) for target, one in zip(group.targets, drawn, strict=True) if one.held]
    if not told:
        return TextMatches({"elsewhere/0": 7, **dict(held)})
    names = [name for name, _ in held]
    tokens = [tokens for _, tokens in held]
    return Matches(Holders(names), 1, range(len(held)), tokens, tokens, tokens)


def choice_of(rules: AffinityRules, ledger: Ledger, prompt: int, matches: Expected | None) -> AffinityChoice:
    """Of a prompt of so many tokens."""
    return AffinityChoice(
        rules, ledger, LoadBalance(ledger), AffinityInstruments(Registry()), prompt_tokens=prompt, matches=matches,
        outcome="answered", told=None,
    )  # fmt: skip


def bound(rules: AffinityRules, prompt: int, loads: Sequence[int]) -> float:
    """The load above which nobody gets the prompt."""
    return max(rules.load_bound * sum(loads) / len(loads) + 10 * prompt, min(loads)) if rules.load_bound else 1e30


def by_formula(rules: AffinityRules, prompt: int, drawn: Sequence[Drawn], turn: int) -> int:
    """The place that the module's formulas choose."""
    count, loads = len(drawn), [one.load for one in drawn]
    held = [min(one.held, prompt) for one in drawn]
    turns = [(place - turn) % count for place in range(count)]
    within = [place for place in range(count) if loads[place] <= bound(rules, prompt, loads)]
    if rules.mode == "load_gated":
        gate = sorted(within, key=lambda place: (loads[place], -held[place], turns[place]))
        return min(gate[: rules.load_gate_topn or 2], key=lambda place: (-held[place], loads[place], turns[place]))
    scores = [
        rules.prefill_load_scale * max(0.0, prompt - rules.overlap_credit * held[place])
        + rules.load_weight * (loads[place] / 10)
        for place in range(count)
    ]
    return min(within, key=lambda place: (scores[place], turns[place]))


@given(rules_of_users, st.integers(0, 80), fleets, st.integers(0, MOST), st.booleans(), st.booleans(), st.booleans())
def test_the_policy_chooses_by_its_formula(
    rules: AffinityRules, prompt: int, drawn: list[Drawn], turn: int, told: bool, avoids: bool, scattered: bool
) -> None:
    with groups_of((Role.UNION, drawn), scattered=scattered) as (ledger, (group,)):
        avoided = [place for place, one in enumerate(drawn) if avoids and one.avoided]
        avoid = frozenset(group.endpoint_ids[place] for place in avoided)
        allowed = [place for place in range(len(drawn)) if place not in avoided]
        choice = choice_of(rules, ledger, prompt, expected_of(group, drawn, told))
        group.cursor = turn
        chosen = choice.choose(group, avoid)
        if not allowed:
            assert chosen is None
            return
        place = allowed[by_formula(rules, prompt, [drawn[place] for place in allowed], turn)]
        assert chosen is group.targets[place]
        assert group.cursor == place + 1
        (decision,) = choice.decisions
        held = min(drawn[place].held, prompt)
        assert (decision.by, decision.held) == ("affinity", held)
        assert list(decision.loads) == [one.load for one in drawn]
        assert choice.work(group.targets[place]) == max(1, int(max(0.0, prompt - rules.overlap_credit * held)))


@given(rules_of_users, st.integers(0, 80), fleets, st.integers(0, MOST), st.booleans(), st.booleans())
def test_decode_goes_to_the_least_loaded_of_prefills_host_within_the_bound(
    rules: AffinityRules, prompt: int, drawn: list[Drawn], turn: int, avoids: bool, scattered: bool
) -> None:
    prefills = [Drawn(0, 0, 1, False)]
    with groups_of((Role.PREFILL, prefills), (Role.DECODE, drawn), scattered=scattered) as (ledger, groups):
        prefill, decode = groups
        choice = choice_of(rules, ledger, prompt, expected_of(prefill, prefills, told=False))
        assert choice.choose(prefill, NOBODY) is prefill.targets[0]
        avoided = [place for place, one in enumerate(drawn) if avoids and one.avoided]
        allowed = [place for place in range(len(drawn)) if place not in avoided]
        decode.cursor = turn
        chosen = choice.choose(decode, frozenset(decode.endpoint_ids[place] for place in avoided))
        if not allowed:
            assert chosen is None
            return
        highest = bound(rules, prompt, [drawn[place].load for place in allowed])
        near = [place for place in allowed if drawn[place].load <= highest and drawn[place].host == 1]
        if near and len(near) < len(allowed):
            assert choice.decisions[-1].by == "locality"
            assert chosen is decode.targets[min(near, key=lambda place: drawn[place].load)]
            return
        assert choice.decisions[-1].by == "load"
        start = turn if turn < len(drawn) and not avoided else 0
        least = min(allowed, key=lambda place: (drawn[place].load, (place - start) % len(drawn)))
        assert chosen is decode.targets[least]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 19))
def test_of_equals_the_least_loaded_take_turns(loads: list[int], turn: int) -> None:
    turn %= len(loads)
    expected = min(range(len(loads)), key=lambda place: (loads[place], (place - turn) % len(loads)))
    assert least_loaded(loads, turn) == least_loaded(np.array(loads), turn) == expected
    assert highest_of(loads) == highest_of(np.array(loads)) == max(loads)


def test_nobody_is_least_loaded_of_nobody() -> None:
    for loads in ([], np.array([], np.int64)):
        with pytest.raises(ValueError, match="empty"):
            least_loaded(loads, 0)
