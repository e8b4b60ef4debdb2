"""Why each endpoint of a request was chosen, or would be: all figures, for people and programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from pymotor.coordinator.affinity.choices import AffinityChoice, Choice, Decision
from pymotor.coordinator.affinity.keyed_choice import KeyedChoice
from pymotor.coordinator.affinity.matches import Matches
from pymotor.coordinator.scheduling import key_choice
from pymotor.coordinator.scheduling.kv_affinity import highest_load, prefill_cost, unified_score, within_gate
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN
from pymotor.coordinator.scheduling.target import Group

ABOVE_BOUND = "its load is above the bound"
FULL = "avoided: it is full"
WITHOUT_KV = "avoided: it has no room for the KV cache"
_WAITS = "none that could get it has room: it would wait"
_AVOIDED = "avoided: it failed this request, is full or has no room"
_BARRED = "avoided: its circuit is open"
_UNKNOWN: Mapping[str, str] = {}

Look: TypeAlias = Callable[[Choice, Group, frozenset[str]], Decision | None]
"""Tells what a choice would decide about a group, if it can, without those that are to be avoided; changes nothing."""


class Candidates(NamedTuple):
    """Endpoints that a request could go to for one leg."""

    group: Group
    decides: Choice
    """Whose choice it would be."""
    without_room: Mapping[str, str]
    """The ids of those that would be avoided, each with the reason for people."""
    waits: bool
    """Whether it would not get to one before another request has ended."""


class EndpointFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One endpoint that could have had the leg; figures in tokens."""

    endpoint: str
    chosen: bool
    load: float
    match_device: int | None = None
    """Of the prompt's beginning in the accelerator's memory, as the engine told; None: nobody asked the conductor."""
    match_any: int | None = None
    """Likewise, wherever the endpoint finds it."""
    match_expected: int | None = None
    """Likewise, with what was just sent there; None where nothing is known."""
    prefill_cost: float | None = None
    """What would be left to compute."""
    score: float | None = None
    """What `unified` minimises; None where something else decides."""
    place: int | None = None
    """In the order of endpoints that a media item, a session or a prompt's beginning has by its hash, 1 first: the
    first within the bound gets it."""
    excluded: str = ""
    """Why it could not be chosen; empty: it could."""


class LegFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One leg's choice."""

    role: str
    by: str
    """`affinity`, `load`, `locality` (prefill's host) or `key`; of an item `item`, or `store`: nobody gets it."""
    highest_load: float | None
    """Above which no endpoint gets the prompt, or the item; None: no bound decided."""
    endpoints: list[EndpointFigures]
    item: int | None = None
    """Which of the request's media items it is for, counted from 0; None: it is for none."""
    note: str = ""
    """What the figures do not say, for people; empty: nothing."""


class WorkersChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that would do the same with a request, where others would not."""

    workers: list[int]
    """Their numbers."""
    chosen: list[str]
    """The endpoint of each leg; empty where none gets it."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One request's choices."""

    request_id: str
    placed_at: float | None
    """When endpoints began to be chosen for it, in seconds since 1970; None: it is not sent."""
    found: str
    """How the matches came about: `answered`, `late`, `lost`, `closed`, `unfollowed`, `text`, `session`, `prefix`;
    `load` where nothing but load was looked at, `several` where that is because the request has more than one prompt,
    `no_session` because it names none. With `late`, `lost`, `closed` and `unfollowed` texts were compared, as with
    `text`."""
    mode: str
    """`unified` or `load_gated`; empty where neither decides."""
    prompt_tokens: int
    legs: list[LegFigures]
    note: str
    """What the figures do not say, for people; empty: nothing."""
    workers: list[WorkersChoice] = []
    """Of a request that is not sent: what each worker would do, where not all would do the same."""


def explain(choice: Choice) -> Explanation:
    """What was decided for a request, the first leg first."""
    return _explanation(choice, choice.decisions)


def explain_now(
    choice: Choice, groups: Iterable[Candidates], look: Look, items: Sequence[LegFigures] = ()
) -> Explanation:
    """What would be decided now for a request of this choice, for each group of endpoints that it could go to, after
    the legs of its media `items`; nothing is sent."""
    decisions: list[Decision] = []
    without_room: dict[str, str] = {}
    waiting: list[int] = []
    for one in groups:
        decision = look(one.decides, one.group, frozenset(one.without_room))
        if decision is not None:
            if one.waits:
                waiting.append(len(decisions))
            decisions.append(decision)
            without_room |= one.without_room
            if isinstance(one.decides, AffinityChoice):
                one.decides.prefilled_at(decision.chosen)
    found = _explanation(choice, decisions, without_room)
    legs = list(found.legs)
    for place in waiting:
        note = legs[place].note
        legs[place] = msgspec.structs.replace(legs[place], note=f"{_WAITS}; {note}" if note else _WAITS)
    return msgspec.structs.replace(found, legs=[*items, *legs])


def _explanation(
    choice: Choice, decisions: Sequence[Decision], without_room: Mapping[str, str] = _UNKNOWN
) -> Explanation:
    """`without_room`: as far as it is known, endpoint ids and reasons as in `Candidates`."""
    return Explanation(
        request_id=choice.request_id.decode("latin-1"),
        placed_at=choice.placed_at,
        found=choice.outcome,
        mode=choice.rules.mode if isinstance(choice, AffinityChoice) else "",
        prompt_tokens=choice.prompt_tokens,
        legs=[_leg(choice, decision, without_room) for decision in decisions],
        note=_note(choice, decisions),
    )


def _note(choice: Choice, decisions: Sequence[Decision]) -> str:
    if choice.outcome == "several":
        return f"{choice.prompts} prompts in one request: load alone decides where they go, whatever endpoints hold"
    if choice.outcome == "no_session":
        return "it names no session (session_header): load alone decides where it goes"
    if decisions:
        return ""
    if choice.prompts:
        return f"{choice.prompts} prompts in one request: no endpoint was chosen for all; one by one they go by load"
    return "no endpoint has been chosen for it"


def _leg(choice: Choice, decision: Decision, without_room: Mapping[str, str]) -> LegFigures:
    group = decision.group
    allowed = [index for index, target in enumerate(group.targets) if target.endpoint_id not in decision.avoid]
    highest = float("inf")
    note = ""
    passed_over: dict[int, str] = {}
    reasons = {**without_room, **dict.fromkeys(decision.barred, _BARRED)}
    excluded = {
        index: reasons.get(endpoint_id, _AVOIDED)
        for index, endpoint_id in enumerate(group.endpoint_ids)
        if endpoint_id in decision.avoid
    }
    if isinstance(choice, AffinityChoice) and decision.by in ("affinity", "locality"):
        highest = highest_load(choice.rules, choice.prompt_tokens, _loads(decision, allowed))
        passed_over, note = _passed_over(choice, decision, allowed)
    elif decision.by == "key":
        highest = key_choice.highest_load(choice.prompt_tokens, _loads(decision, allowed))
        note = "the first of the key's own order whose load is within the bound"
    above = {index: ABOVE_BOUND for index in allowed if decision.loads[index] > highest}
    excluded = passed_over | excluded | above
    endpoints = [_endpoint(choice, decision, index, excluded.get(index, "")) for index in range(len(group))]
    if isinstance(choice, KeyedChoice) and decision.by == "key":
        places = choice.places(group)
        endpoints = [
            msgspec.structs.replace(one, place=int(place) + 1) for one, place in zip(endpoints, places, strict=True)
        ]
    return LegFigures(
        role=group.targets[0].instance.role.value,
        by=decision.by,
        highest_load=None if highest == float("inf") else highest / TENTHS_PER_ACTIVE_TOKEN,
        endpoints=endpoints,
        note=note,
    )


def _loads(decision: Decision, allowed: list[int]) -> npt.NDArray[np.int64]:
    """Of those allowed."""
    return np.asarray(decision.loads, np.int64)[allowed]


def _passed_over(choice: AffinityChoice, decision: Decision, allowed: list[int]) -> tuple[dict[int, str], str]:
    """Who of those allowed was not looked at, and why; and what the figures do not say of it."""
    group = decision.group
    if decision.by == "locality":
        host = decision.chosen.pool.host
        return {index: "not on prefill's host" for index in allowed if group.targets[index].pool.host != host}, ""
    if choice.rules.mode != "load_gated" or choice.matches is None:
        return {}, ""
    expected = choice.matches.expected(group)[allowed]
    loads = _loads(decision, allowed)
    gate = {allowed[one] for one in within_gate(choice.rules, choice.prompt_tokens, expected, loads, decision.turn)}
    most = max(int(decision.loads[index]) for index in gate)
    outside = f"outside of the gate: not among the {choice.rules.gate} least loaded"
    equal = "outside of the gate: as loaded as the last in it, which holds more or had its turn"
    note = f"of the {choice.rules.gate} least loaded the longest match, then the least load"
    return {index: outside if decision.loads[index] > most else equal for index in allowed if index not in gate}, note


def _endpoint(choice: Choice, decision: Decision, index: int, excluded: str) -> EndpointFigures:
    group = decision.group
    target = group.targets[index]
    load = int(decision.loads[index])
    figures = EndpointFigures(
        endpoint=target.endpoint_id,
        chosen=target is decision.chosen,
        load=load / TENTHS_PER_ACTIVE_TOKEN,
        excluded=excluded,
    )
    if not isinstance(choice, AffinityChoice) or choice.matches is None or decision.by != "affinity":
        return figures
    matches = choice.matches
    expected = int(matches.expected(group)[index])
    told = matches if isinstance(matches, Matches) else None
    return msgspec.structs.replace(
        figures,
        match_device=int(told.on_device(group)[index]) if told is not None else None,
        match_any=int(told.in_any_tier(group)[index]) if told is not None else None,
        match_expected=expected,
        prefill_cost=prefill_cost(choice.rules, choice.prompt_tokens, expected),
        score=(
            unified_score(choice.rules, choice.prompt_tokens, expected, load)
            if choice.rules.mode == "unified"
            else None
        ),
    )
