"""Answers, in a worker, what has become of requests that are over."""

from __future__ import annotations

import logging

import msgspec

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.control import ExplainReply, FinishedQuestion
from pymotor.coordinator.dashboard.finished_requests import FinishedRequests
from pymotor.coordinator.dashboard.timeline import in_short, timeline

logger = logging.getLogger(__name__)


def answer_finished(kept: FinishedRequests, question: FinishedQuestion) -> ExplainReply:
    """All of one request, or in short those that ended after a moment."""
    number = question.number
    try:
        if not question.id:
            body = msgspec.json.encode([in_short(one) for one in kept.newer(question.after)])
            return ExplainReply(number=number, status=200, body=body)
        found = kept.find(question.id)
        if found is None:
            return ExplainReply(number=number, status=404, body=ApiError(404, "not kept here").body())
        return ExplainReply(number=number, status=200, body=msgspec.json.encode(timeline(found)))
    except Exception:
        logger.exception("what has become of requests could not be told for no reason foreseen")
        told = ApiError(500, "the gateway failed on this; its log says why", code="internal_error")
        return ExplainReply(number=number, status=told.status, body=told.body())
