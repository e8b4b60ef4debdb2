"""One explanation of those that several workers give: each knows its own requests only, and has its own turns."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pymotor.coordinator.affinity.explanation import Explanation, WorkersChoice
from pymotor.coordinator.control import ExplainReply

_BY_TEXT = frozenset(("text", "late", "lost", "closed", "unfollowed"))
"""How matches came about where each worker has its own."""


def newest(replies: Mapping[int, ExplainReply]) -> tuple[int, bytes]:
    """Status and JSON: what is told of the request that was placed last, of those that each worker, by its column,
    tells of; an error where none tells of any. There is at least one."""
    known = _explained(replies)
    if not known:
        return _refusal(replies)
    return 200, replies[max(known, key=lambda column: known[column].placed_at or 0.0)].body


def all_would(replies: Mapping[int, ExplainReply]) -> tuple[int, bytes]:
    """Status and JSON: what is told by the worker that knows most of a request that is not sent, and what the others
    would do where it is not the same. There is at least one."""
    known = _explained(replies)
    if not known:
        return _refusal(replies)
    best = max(sorted(known), key=lambda column: _longest_match(known[column]))
    shown = known[best]
    ways: dict[tuple[str, ...], list[int]] = {}
    for column in sorted(known):
        ways.setdefault(_chosen(known[column]), []).append(column)
    notes = [shown.note] if shown.note else []
    if len(known) > 1 and shown.found in _BY_TEXT:
        notes.append(f"each worker compares with the texts that it sent itself; the figures are worker {best}'s")
    elif len(ways) > 1:
        notes.append(f"not all workers would do the same; the figures are worker {best}'s")
    if not notes:
        return 200, replies[best].body
    differing = [WorkersChoice(workers=columns, chosen=list(way)) for way, columns in ways.items()]
    told = msgspec.structs.replace(shown, note="; ".join(notes), workers=differing if len(ways) > 1 else [])
    return 200, msgspec.json.encode(told)


def _explained(replies: Mapping[int, ExplainReply]) -> dict[int, Explanation]:
    return {
        column: msgspec.json.decode(reply.body, type=Explanation)
        for column, reply in replies.items()
        if reply.status == 200
    }


def _refusal(replies: Mapping[int, ExplainReply]) -> tuple[int, bytes]:
    told = min(replies.values(), key=lambda reply: reply.status)
    return told.status, told.body


def _longest_match(explanation: Explanation) -> int:
    return max((one.match_expected or 0 for leg in explanation.legs for one in leg.endpoints), default=0)


def _chosen(explanation: Explanation) -> tuple[str, ...]:
    """The endpoint of each leg."""
    return tuple(next((one.endpoint for one in leg.endpoints if one.chosen), "") for leg in explanation.legs)
