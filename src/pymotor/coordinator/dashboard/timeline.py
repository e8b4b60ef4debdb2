"""What the dashboard is told of a request that is over, in short and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pymotor.coordinator.affinity.explanation import EndpointFigures, Explanation, explain
from pymotor.coordinator.dashboard.finished_requests import Finished
from pymotor.coordinator.trail import Step

CANDIDATES = 16
"""Endpoints that are told of each choice."""


class LegInShort(msgspec.Struct, frozen=True):
    """A leg that did its part, or that was followed."""

    leg: str
    instance: str
    seconds: float
    outcome: str = ""
    """Empty: it did its part; else why not."""


class FinishedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table; times in seconds, sizes in bytes."""

    id: str
    ended: float
    """Seconds since 1970."""
    request_id: str
    engine_request_id: str
    path: str
    model: str
    stream: bool
    status: int
    outcome: str
    """`answered`, `refused`, `failed`, `client_gone`."""
    reason: str
    seconds: float
    first_token_seconds: float | None
    legs: Sequence[LegInShort]
    tries: int
    """Endpoints that failed it."""
    followed: bool
    """Whether its steps are known."""


class Candidate(msgspec.Struct, frozen=True):
    """An endpoint that could have had a leg."""

    endpoint: str
    load_tokens: float
    chosen: bool
    excluded: bool
    """It had failed the request, or had no room."""


class TimelineStep(msgspec.Struct, frozen=True, kw_only=True):
    """A leg or a wait; times in seconds since it began to come, None: it did not come to that."""

    leg: str
    endpoint: str
    instance: str
    engine_request_id: str
    began: float | None
    sent: float | None
    content: float | None
    ended: float | None
    request_bytes: int
    answer_bytes: int
    status: int
    outcome: str
    item: str
    why: Sequence[Candidate]


class Timeline(FinishedRequest, frozen=True, kw_only=True):
    """All there is to tell of one request."""

    request_bytes: int
    answer_bytes: int
    answer_events: int
    media_items: int
    spared: Sequence[str]
    """Endpoints that failed it, the last failure last."""
    steps: Sequence[TimelineStep]
    placement: Explanation | None
    """Where more than load decided: all figures of each choice; see docs/kv-affinity.md."""


def in_short(found: Finished) -> FinishedRequest:
    """A row of the table."""
    return FinishedRequest(**_fields(found))


def timeline(found: Finished) -> Timeline:
    """The whole story."""
    known = [] if found.trail is None else found.trail.steps
    zero = min([found.started_at, *(one.began for one in known if one.began)])
    steps = [_step(one, zero) for one in known]
    return Timeline(
        **_fields(found),
        request_bytes=found.request_bytes,
        answer_bytes=found.answer_bytes,
        answer_events=found.answer_events,
        media_items=found.media_items,
        spared=found.spared,
        steps=sorted(steps, key=lambda step: step.began or 0.0),
        placement=None if found.choice is None else _placement(explain(found.choice)),
    )


def _fields(found: Finished) -> dict[str, Any]:
    return {
        "id": found.id,
        "ended": round(found.ended, 6),
        "request_id": _text(found.request_id),
        "engine_request_id": _text(found.engine_request_id),
        "path": found.path,
        "model": found.model,
        "stream": found.stream,
        "status": found.status,
        "outcome": found.outcome,
        "reason": found.reason,
        "seconds": round(found.seconds, 6),
        "first_token_seconds": found.first_token_seconds,
        "legs": _legs(found),
        "tries": len(found.spared),
        "followed": found.trail is not None,
    }


def _legs(found: Finished) -> list[LegInShort]:
    trail = found.trail
    if trail is None or not trail.steps:
        return [LegInShort(leg, instance, ms / 1000) for leg, instance, ms in found.legs]
    return [
        LegInShort(step.leg, step.instance, max(0.0, step.ended - step.began) if step.ended else 0.0, step.outcome)
        for step in trail.steps
    ]


def _step(step: Step, zero: float) -> TimelineStep:
    def since(moment: float) -> float | None:
        return round(moment - zero, 6) if moment else None

    return TimelineStep(
        leg=step.leg,
        endpoint=step.endpoint,
        instance=step.instance,
        engine_request_id=_text(step.leg_id),
        began=since(step.began),
        sent=since(step.sent),
        content=since(step.content),
        ended=since(step.ended),
        request_bytes=step.request_bytes,
        answer_bytes=step.answer_bytes,
        status=step.status,
        outcome=step.outcome,
        item=step.item,
        why=[Candidate(*one) for one in (step.why or ())[:CANDIDATES]],
    )


def _placement(explanation: Explanation) -> Explanation:
    """The chosen one and those that came nearest, of each leg."""
    legs = [
        msgspec.structs.replace(leg, endpoints=sorted(leg.endpoints, key=_rank)[:CANDIDATES])
        for leg in explanation.legs
    ]
    return msgspec.structs.replace(explanation, legs=legs, request_id=explanation.request_id[:256])


def _rank(figures: EndpointFigures) -> tuple[bool, bool, float]:
    score = figures.load if figures.score is None else figures.score
    return (not figures.chosen, bool(figures.excluded), score)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
