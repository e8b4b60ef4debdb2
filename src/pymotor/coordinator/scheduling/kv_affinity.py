"""The endpoint that already holds the beginning of a prompt, weighed against its load.

For each endpoint, in tokens, with `isl` the prompt's length and `match` what the endpoint holds of its beginning:

    matched      = min(match, isl)
    prefill_cost = max(0, isl - overlap_credit * matched)
    unified:       the least prefill_load_scale * prefill_cost + load_weight * load
    load_gated:    of the load_gate_topn least loaded (0: 2) the longest match, then the least load

These are the scheduling parameters that PyMotor's users know from `scheduler_config`. Two things are added. An endpoint
whose load is above `load_bound * mean + isl` gets nothing, whatever it holds: without the bound a `load_weight` of 0,
or a gate as wide as the fleet, would send all that begins alike to one endpoint. With `unified` and its defaults the
bound never decides, since nobody wins there who has more than `isl` above the least. And equals take turns: in the
gate, where several have the load of the last that fits in, the longer match goes first.

Loads come as the ledger has them, in tenths of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN
from pymotor.coordinator.scheduling.loads import Loads, least_loaded

_LOOP_BOUND = 16
"""Below so many endpoints a plain loop beats numpy's fixed cost."""
_DEFAULT_GATE = 2
_UNBOUNDED = float("inf")
_WHOLE = (1.0, 1.0, 1.0)
"""Weights that multiply nothing."""
_FEW_HOLDERS = 16
"""So many are sooner scored one at a time."""

Figures: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
"""One for each endpoint."""


class AffinityRules(msgspec.Struct, frozen=True, kw_only=True):
    """The `kv_affinity_*` keys of `scheduler_config`."""

    mode: Literal["unified", "load_gated"] = "unified"
    load_weight: float = 1.0
    overlap_credit: float = 1.0
    prefill_load_scale: float = 1.0
    load_gate_topn: int = 0
    load_bound: float = 1.25
    """Of the mean load, beside the prompt itself; 0: none."""

    @property
    def gate(self) -> int:
        """How many endpoints `load_gated` looks at."""
        return self.load_gate_topn or _DEFAULT_GATE


def choose_by_affinity(
    rules: AffinityRules,
    prompt_tokens: int,
    matched: Figures,
    loads: Figures,
    turn: int = 0,
) -> int:
    """The index of the best endpoint. `matched` are tokens, `loads` tenths of a token, for each endpoint; of equals the
    first from `turn` on is taken. Raises `ValueError` without endpoints."""
    if not len(loads):
        raise ValueError("there is no endpoint to choose from")
    turn %= len(loads)
    if len(loads) <= _LOOP_BOUND:
        choose = _unified_by_loop if rules.mode == "unified" else _gated_by_loop
        return choose(rules, prompt_tokens, _listed(matched), _listed(loads), turn)
    choose_by_array = _unified_by_array if rules.mode == "unified" else _gated_by_array
    return choose_by_array(rules, prompt_tokens, np.asarray(matched), np.asarray(loads), turn)


def choose_among_holders(
    rules: AffinityRules,
    prompt_tokens: int,
    places: Figures,
    held: Figures,
    loads: Loads,
    turn: int = 0,
) -> tuple[int, int]:
    """What `choose_by_affinity` chooses where all hold nothing but those at `places`, which all differ, and how much
    of the prompt that one holds. `held` are tokens, for each of `places`; either may be an array.

    With `unified`, of all that hold nothing only the least loaded can win, so only that one and the holders have to be
    scored. Raises `ValueError` without endpoints.
    """
    count = len(loads)
    if not count:
        raise ValueError("there is no endpoint to choose from")
    turn %= count
    idle = least_loaded(loads, turn)
    least = int(loads[idle])
    # As `unified_score`, where nothing is held.
    cost, weight = rules.prefill_load_scale * prompt_tokens, rules.load_weight
    alone = cost + weight * (least / TENTHS_PER_ACTIVE_TOKEN)
    if rules.mode != "unified" or cost + weight * ((least + 1) / TENTHS_PER_ACTIVE_TOKEN) <= alone:
        # Others that hold nothing may be wanted, too.
        matched = _spread(places, held, loads)
        best = choose_by_affinity(rules, prompt_tokens, matched, loads, turn)
        return best, min(int(matched[best]), prompt_tokens)
    if not len(places):
        return idle, 0
    surely_within = _UNBOUNDED
    if rules.load_bound:
        # Below this the bound allows a load whatever the mean is, which then need not be known.
        surely_within = least + TENTHS_PER_ACTIVE_TOKEN * prompt_tokens if rules.load_bound >= 1 else least
    if len(places) <= _FEW_HOLDERS or isinstance(loads, list):
        return _among_few(rules, prompt_tokens, places, held, loads, turn, (idle, alone), surely_within)
    return _among_many(
        rules, prompt_tokens, np.asarray(places), np.asarray(held), loads, turn, (idle, alone), surely_within
    )


def within_gate(rules: AffinityRules, prompt_tokens: int, matched: Figures, loads: Figures, turn: int = 0) -> list[int]:
    """The indices of those that `load_gated` looks at; arguments as for `choose_by_affinity`."""
    turn %= max(1, len(loads))
    return [one[3] for one in _gate(rules, prompt_tokens, _listed(matched), _listed(loads), turn)] if len(loads) else []


def prefill_cost(rules: AffinityRules, prompt_tokens: int, matched: int) -> float:
    """Tokens that are still to be computed, at an endpoint that holds `matched`."""
    return max(0.0, prompt_tokens - rules.overlap_credit * min(matched, prompt_tokens))


def unified_score(rules: AffinityRules, prompt_tokens: int, matched: int, load: int) -> float:
    """What `unified` minimises, in tokens; `load` in tenths of a token."""
    cost = prefill_cost(rules, prompt_tokens, matched)
    return rules.prefill_load_scale * cost + rules.load_weight * (load / TENTHS_PER_ACTIVE_TOKEN)


def highest_load(rules: AffinityRules, prompt_tokens: int, loads: Figures) -> float:
    """The load, in tenths of a token, above which an endpoint gets nothing; the least loaded is always within it."""
    if not rules.load_bound:
        return _UNBOUNDED
    if isinstance(loads, np.ndarray):
        total, least = int(loads.sum()), int(loads.min())
    else:
        total, least = sum(loads), min(loads)
    return max(rules.load_bound * total / len(loads) + TENTHS_PER_ACTIVE_TOKEN * prompt_tokens, least)


def _listed(figures: Figures) -> Sequence[int]:
    # A loop over an array's elements is many times slower.
    return figures.tolist() if isinstance(figures, np.ndarray) else figures


# -- few of many endpoints


def _spread(places: Figures, held: Figures, loads: Loads) -> Figures:
    """What each endpoint holds."""
    if isinstance(loads, list):
        listed = [0] * len(loads)
        for place, tokens in zip(_listed(places), _listed(held), strict=True):
            listed[place] = tokens
        return listed
    matched = np.zeros(len(loads), np.int64)
    matched[np.asarray(places, np.intp)] = held
    return matched


def _among_few(
    rules: AffinityRules,
    prompt_tokens: int,
    places: Figures,
    held: Figures,
    loads: Loads,
    turn: int,
    idle: tuple[int, float],
    surely_within: float,
) -> tuple[int, int]:
    """`idle`: the least loaded, and its score with nothing held."""
    (best, least), best_held, count = idle, 0, len(loads)
    credit, scale, weight = rules.overlap_credit, rules.prefill_load_scale, rules.load_weight
    for place, tokens in zip(_listed(places), _listed(held), strict=True):
        load = int(loads[place])
        # As `unified_score`, which costs two calls.
        cost = prompt_tokens - credit * (tokens if tokens < prompt_tokens else prompt_tokens)
        score = scale * (cost if cost > 0.0 else 0.0) + weight * (load / TENTHS_PER_ACTIVE_TOKEN)
        if score > least or (score == least and (place - turn) % count > (best - turn) % count):
            continue
        if load > surely_within:
            surely_within = highest_load(rules, prompt_tokens, loads)
            if load > surely_within:
                continue
        best, least, best_held = place, score, tokens
    return best, min(best_held, prompt_tokens)


def _among_many(
    rules: AffinityRules,
    prompt_tokens: int,
    places: npt.NDArray[np.integer[Any]],
    held: npt.NDArray[np.integer[Any]],
    loads: npt.NDArray[np.int64],
    turn: int,
    idle: tuple[int, float],
    surely_within: float,
) -> tuple[int, int]:
    own = loads.take(places)
    scores = _unified_scores(rules, prompt_tokens, held, own)
    if surely_within < _UNBOUNDED and int(own.max()) > surely_within:
        scores[own > highest_load(rules, prompt_tokens, loads)] = np.inf
    first = int(scores.argmin())
    least = float(scores[first])
    if least > idle[1]:
        return idle[0], 0
    equals = np.flatnonzero(scores == least)
    if len(equals) > 1:
        first = int(equals[((places[equals].astype(np.intp) - turn) % len(loads)).argmin()])
    best = int(places[first])
    if least == idle[1] and (best - turn) % len(loads) > (idle[0] - turn) % len(loads):
        return idle[0], 0
    return best, min(int(held[first]), prompt_tokens)


# -- few endpoints


def _unified_by_loop(
    rules: AffinityRules, prompt_tokens: int, matched: Sequence[int], loads: Sequence[int], turn: int
) -> int:
    highest = highest_load(rules, prompt_tokens, loads)
    best, least = turn, float("inf")
    for index in (*range(turn, len(loads)), *range(turn)):
        if loads[index] <= highest:
            found = unified_score(rules, prompt_tokens, matched[index], loads[index])
            if found < least:
                best, least = index, found
    return best


def _gated_by_loop(
    rules: AffinityRules, prompt_tokens: int, matched: Sequence[int], loads: Sequence[int], turn: int
) -> int:
    kept = _gate(rules, prompt_tokens, matched, loads, turn)
    return min(kept, key=lambda one: (one[1], one[0], one[2]))[3]


def _gate(
    rules: AffinityRules, prompt_tokens: int, matched: Sequence[int], loads: Sequence[int], turn: int
) -> list[tuple[int, int, int, int]]:
    """Load, match, turn and index of those in it, in their order."""
    highest = highest_load(rules, prompt_tokens, loads)
    count = len(loads)
    return sorted(
        (loads[index], -min(matched[index], prompt_tokens), (index - turn) % count, index)
        for index in range(count)
        if loads[index] <= highest
    )[: rules.gate]


# -- many endpoints


def _unified_by_array(
    rules: AffinityRules,
    prompt_tokens: int,
    matched: npt.NDArray[np.int64],
    loads: npt.NDArray[np.int64],
    turn: int,
) -> int:
    scores = _unified_scores(rules, prompt_tokens, matched, loads)
    scores[loads > highest_load(rules, prompt_tokens, loads)] = np.inf
    after = turn + int(scores[turn:].argmin())
    if not turn:
        return after
    before = int(scores[:turn].argmin())
    return before if scores[before] < scores[after] else after


def _unified_scores(
    rules: AffinityRules, prompt_tokens: int, matched: npt.NDArray[np.integer[Any]], loads: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """As `unified_score`, to the last bit."""
    scores: npt.NDArray[np.float64] = loads / TENTHS_PER_ACTIVE_TOKEN
    matched = np.minimum(matched, prompt_tokens)
    if (rules.overlap_credit, rules.prefill_load_scale, rules.load_weight) == _WHOLE:
        scores += prompt_tokens - matched
        return scores
    cost = np.maximum(0.0, prompt_tokens - rules.overlap_credit * matched)
    cost *= rules.prefill_load_scale
    scores *= rules.load_weight
    scores += cost
    return scores


def _gated_by_array(
    rules: AffinityRules,
    prompt_tokens: int,
    matched: npt.NDArray[np.int64],
    loads: npt.NDArray[np.int64],
    turn: int,
) -> int:
    held = np.minimum(matched, prompt_tokens)
    within = np.flatnonzero(loads <= highest_load(rules, prompt_tokens, loads))
    if len(within) > rules.gate:
        # Whoever has the load of the last one in the gate is looked at more closely.
        last = np.partition(loads[within], rules.gate - 1)[rules.gate - 1]
        within = within[loads[within] <= last]
    turns = (within - turn) % len(loads)
    kept = np.lexsort((turns, -held[within], loads[within]))[: rules.gate]
    within, turns = within[kept], turns[kept]
    return int(within[np.lexsort((turns, loads[within], -held[within]))[0]])
