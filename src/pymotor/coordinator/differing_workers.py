"""One explanation of those that several workers give: each knows its own requests only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pymotor.coordinator.affinity.explanation import Explanation
from pymotor.coordinator.control import ExplainReply


def newest(replies: Mapping[int, ExplainReply]) -> ExplainReply:
    """What is told of the request that was placed last, of those that each worker, by its column, tells of; an error
    where none tells of any. There is at least one."""
    known = {column: explanation for column, explanation in _explained(replies).items() if explanation.placed_at}
    if not known:
        return min(replies.values(), key=lambda reply: reply.status)
    return replies[max(known, key=lambda column: known[column].placed_at or 0.0)]


def _explained(replies: Mapping[int, ExplainReply]) -> dict[int, Explanation]:
    return {
        column: msgspec.json.decode(reply.body, type=Explanation)
        for column, reply in replies.items()
        if reply.status == 200
    }
